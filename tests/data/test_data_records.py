"""data.records: shards are whole or refused."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import records
from data.readers import Reader, Skipped
from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import rgb8
from tests.data.prepared import write_shards


def image(value, side=6):
    return np.full((side, side, 3), value, np.uint8)


@pytest.fixture
def shards(tmp_path):
    """Two shards of three and two examples; the last is a pair."""
    packed = [records.pack(f"é{i}", records.encode(image(i))) for i in range(4)]
    packed.append(records.pack("pair", records.encode(image(9, 8)), records.encode(image(7, 2))))
    write_shards(tmp_path, packed[:3], packed[3:])
    return tmp_path


@given(st.text(max_size=40), st.binary(min_size=1, max_size=60), st.binary(max_size=60))
def test_records_are_unpacked_as_packed(name, hr, lr):
    assert records.unpack(records.pack(name, hr, lr)) == (name, hr, lr)


@pytest.mark.parametrize("length", [0, 7, 8, 12])
def test_cut_records_are_refused(length):
    with pytest.raises(ValueError, match="cut short"):
        records.unpack(records.pack("name", b"12345")[:length])


@given(
    st.text(max_size=40),
    st.binary(max_size=60),
    *[st.binary(min_size=1, max_size=60)] * 2,
    st.data(),
)
def test_taught_records_are_unpacked_as_packed_or_refused(name, hr, lr, teacher, data):
    record = records.pack_taught(name, hr, lr, teacher)
    assert records.unpack_taught(record) == (name, hr, lr, teacher)
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    for wrong in (cut, record + b"x"):
        with pytest.raises(UserError, match="cut short"):
            records.unpack_taught(wrong)


def test_a_taught_record_needs_both_images():
    for lr, teacher in ((b"", b"1"), (b"1", b"")):
        with pytest.raises(UserError, match="cut short"):
            records.unpack_taught(records.pack_taught("a", b"1", lr, teacher))


@pytest.mark.parametrize("jpeg", [0, 100])
def test_encoding_keeps_the_pixels(jpeg):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 2, (32, 32, 3)), 1) + 128
    original = np.clip(smooth, 0, 255).astype(np.uint8)
    found = rgb8(records.encode(original, jpeg), "x").astype(int)
    assert np.abs(found - original).max() <= (4 if jpeg else 0)


def test_shards_are_one_sequence(shards):
    source = records.RecordFolder(shards)
    assert len(source) == 5
    assert [source[i]["id"] for i in range(5)] == ["é0", "é1", "é2", "é3", "pair"]
    for i in range(4):
        np.testing.assert_array_equal(source[i]["image"], image(i))
    pair = pickle.loads(pickle.dumps(source))[-1]  # a worker gets a reader of its own
    np.testing.assert_array_equal(pair["hr"], image(9, 8))
    np.testing.assert_array_equal(pair["lr"], image(7, 2))
    with pytest.raises(IndexError):
        source[5]


def test_an_interrupted_shard_has_no_name(tmp_path):
    def broken():
        yield records.pack("a", b"1")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        records.write_shard(tmp_path / "a.array_record", broken())
    assert not (tmp_path / "a.array_record").exists()


def test_missing_manifest_is_named(shards):
    (shards / "manifest.json").unlink()
    assert records.is_shards(shards)
    with pytest.raises(ValueError, match=r"manifest\.json: missing"):
        records.RecordFolder(shards)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"version": 1}', '{"version": 2, "shards": []}', '{"version":1,"shards":[]}'),
        '{"version": 3, "shards": [{"file": "a.array_record", "examples": 3, "bytes": 9}]}',
    ],
)
def test_broken_manifest_is_named(shards, text):
    (shards / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: ") as error:
        records.RecordFolder(shards)
    assert "\n" not in str(error.value)


def test_damaged_shards_are_named_before_use(shards):
    path, described = shards / "b.array_record", shards / "manifest.json"
    whole, manifest = path.read_bytes(), json.loads(described.read_text())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.array_record: has [\d,]+ bytes, the manifest says"):
        records.RecordFolder(shards)
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ValueError, match="shards"):
        records.RecordFolder(shards)
    path.unlink()
    with pytest.raises(ValueError, match=r"b\.array_record: is missing"):
        records.RecordFolder(shards)
    path.write_bytes(whole)
    manifest["shards"][0]["examples"] = 2
    described.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="hold 5 examples, the manifest says 4"):
        records.RecordFolder(shards)


def test_a_damaged_image_is_named(tmp_path):
    write_shards(tmp_path, [records.pack("a", records.encode(image(1))), records.pack("b", b"no")])
    source = records.RecordFolder(tmp_path)
    assert source[0]["id"] == "a"
    with pytest.raises(UserError, match="b: not a picture"):
        source[1]


def taught(name, hr=b""):
    return records.pack_taught(name, hr, records.encode(image(2, 2)), records.encode(image(5, 8)))


def test_taught_shards_have_a_strength_and_hr_where_it_was_kept(tmp_path):
    packed = [taught("a#0"), taught("b#1", records.encode(image(9, 8)))]
    write_shards(tmp_path, packed, version=records.TAUGHT, settings={"strength": 0.25})
    source = records.RecordFolder(tmp_path)
    for i, hr in enumerate((None, image(9, 8))):
        found = source[i]
        assert set(found) == {"id", "lr", "teacher", "strength"} | ({"hr"} if i else set())
        assert found["strength"] == 0.25 and found["strength"].dtype == np.float32
        np.testing.assert_array_equal(found["lr"], image(2, 2))
        np.testing.assert_array_equal(found["teacher"], image(5, 8))
        np.testing.assert_array_equal(found.get("hr"), hr)


@pytest.mark.parametrize("settings", [None, {}, {"strength": 2}, {"strength": "all"}])
def test_taught_shards_without_a_strength_are_refused(tmp_path, settings):
    write_shards(tmp_path, [taught("a#0")], version=records.TAUGHT, settings=settings)
    with pytest.raises(UserError, match=r"manifest\.json: strength must be in 0\.\.1, got"):
        records.RecordFolder(tmp_path)


def test_damaged_records_are_passed_over_each_under_its_name(tmp_path):
    bad = records.pack_taught("c#2", b"", records.encode(image(2, 2)), b"no picture")
    packed = [taught("a#0"), taught("b#1")[:-1], bad, b"short", taught("d#4")]
    write_shards(tmp_path, packed, version=records.TAUGHT, settings={"strength": 1})
    skipped = Skipped()
    reader = Reader(records.RecordFolder(tmp_path), skipped)
    assert [reader[i]["id"] for i in range(5)] == ["a#0", "d#4", "d#4", "d#4", "d#4"]
    notes = skipped.notes()
    names = {f"{tmp_path}/{name}" for name in ("record 1", "c#2", "record 3")}
    assert set(notes) == names
    assert notes[f"{tmp_path}/record 1"].endswith("record 1: record is cut short")
    assert "c#2: not a picture" in notes[f"{tmp_path}/c#2"]


def test_licences_are_those_of_the_examples(tmp_path):
    write_shards(tmp_path, [records.pack("a", records.encode(image(1)))])
    source = records.RecordFolder(tmp_path)
    assert source.licences() == {}
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps({"id": "a", "licence": "CC0"}) + "\n")
    assert source.licences() == {"a": "CC0"}
    path.write_text("[1]\n")
    with pytest.raises(UserError, match=r"examples\.jsonl: not a list of examples"):
        source.licences()
