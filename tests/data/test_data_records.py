"""data.records: shards are whole or refused."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import records
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
    ["{", "[]", '{"version": 1}', '{"version": 2, "shards": []}', '{"version":1,"shards":[]}'],
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
