"""bundles: what is written comes back, and what is wrong with a file is said in one line."""

import dataclasses
import json
import os
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskgit_sr import bundles
from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import LONGEST, UserError
from maskgit_sr.inference import load

RNG = np.random.default_rng(0)
PARAMS = {
    "codebook": {"embedding": RNG.normal(size=(5, 3)).astype(np.float32)},
    "generator": {
        "layers": {"0": {"kernel": RNG.normal(size=(2, 3, 4)).astype(np.float32)}},
        "scale": RNG.normal(size=4).astype(np.float32),
    },
}
METADATA = Metadata(
    "realsrt",
    {"tokenizer": {"channels": [1, 2]}, "name": "γ"},
    4,
    "Apache-2.0",
    training={"tokenizer": {"steps": 3}},
    scores={"set5/psnr_y": 25.5},
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new folder" / "model.safetensors"
    bundles.write(path, PARAMS, METADATA)
    return path


def rewrite(path, change):
    """Changes the header of a written bundle in place."""
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob[8 + size :])


def error(path, shapes=None):
    with pytest.raises(UserError) as caught:
        bundles.read(path, shapes)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def test_float32_comes_back_bit_for_bit(path):
    params, metadata = bundles.read(path, PARAMS)
    assert metadata == bundles.read_metadata(path)
    assert len(metadata.digest) == 64
    assert dataclasses.replace(metadata, digest="") == METADATA
    np.testing.assert_equal(params, PARAMS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_bfloat16_rounds_all_but_the_exact_groups(tmp_path):
    path = tmp_path / "half.safetensors"
    bundles.write(path, PARAMS, METADATA, ml_dtypes.bfloat16, exact=["codebook"])
    params, _ = bundles.read(path, PARAMS)
    np.testing.assert_array_equal(params["codebook"]["embedding"], PARAMS["codebook"]["embedding"])
    kernel = PARAMS["generator"]["layers"]["0"]["kernel"]
    found = params["generator"]["layers"]["0"]["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, kernel.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_missing_unknown_and_misshaped_entries_are_named(path):
    shapes = {
        "codebook": {"embedding": np.zeros((5, 4))},
        "critic": {name: np.zeros(1) for name in "abcde"},
        "generator": {"layers": PARAMS["generator"]["layers"]},
    }
    text = error(path, shapes)
    assert "missing: critic/a, critic/b, critic/c and 2 more" in text
    assert "unknown: generator/scale" in text
    assert "mis-shaped: codebook/embedding (expected (5, 4), found (5, 3))" in text


def test_no_such_file_and_truncated_files(path, tmp_path):
    assert "no such bundle" in error(tmp_path / "gone.safetensors")
    blob = path.read_bytes()
    for length in (0, 4, 40, len(blob) // 2, len(blob) - 1):
        path.write_bytes(blob[:length])
        assert "not a readable bundle, it may be cut short" in error(path)
    assert "not a readable bundle" in error(tmp_path)  # a folder


def test_other_files(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path)
    assert "expected a maskgit_sr bundle, found another safetensors file" in error(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "not a readable bundle" in error(path)


def test_another_dtype_is_named(path):
    def change(header):
        header["generator/scale"]["dtype"] = "I32"

    rewrite(path, change)
    assert "generator/scale: expected F32 or BF16, found I32" in error(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"version": 3}, "expected bundle format 1 or 2, found 3"),
        (lambda m: m | {"version": "two"}, "expected bundle format 1 or 2, found two"),
        (lambda m: m | {"digest": "0" * 64}, "damaged: the digest"),
        (lambda m: m | {"scale": "4"}, "damaged: scale: expected int, found '4'"),
        (lambda m: m | {"scale": True}, "damaged: scale: expected int, found True"),
        (lambda m: m | {"scale": 0}, "damaged: scale: expected at least 1, found 0"),
        (lambda m: m | {"config": []}, "damaged: config: expected dict"),
        (lambda m: m | {"method": None}, "damaged: method: expected str, found None"),
        (lambda m: m | {"version": 1, "config": None}, "metadata is damaged"),
        (lambda m: m | {"version": 1, "config": {"tile": 3}}, "metadata is damaged"),
        (lambda m: m | {"version": 1, "config": {"control": 3}}, "metadata is damaged"),
        (lambda m: m | {"version": 1, "method": 3, "config": {}}, "metadata is damaged"),
        (lambda m: m | {"surprise": 1}, "metadata is damaged"),
        (lambda m: {k: v for k, v in m.items() if k != "version"}, "metadata is damaged"),
        (lambda m: [m], "metadata is damaged"),
    ],
)
def test_metadata_of_another_time(path, change, message):
    def rewrite_metadata(header):
        own = header["__metadata__"]
        own["maskgit_sr"] = json.dumps(change(json.loads(own["maskgit_sr"])))

    rewrite(path, rewrite_metadata)
    assert message in error(path)


def deep(levels):
    return lambda m: m | {"training": json.loads("[" * levels + "]" * levels)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"config": None}, "config: expected dict, found None"),
        (lambda m: m | {"config": [1]}, r"config: expected dict, found [1]"),
        (lambda m: m | {"method": ["realsrt"]}, "method: expected str, found ['realsrt']"),
        (lambda m: m | {"scale": -4}, "scale: expected at least 1, found -4"),
        (lambda m: m | {"scale": 4.0}, "scale: expected int, found 4.0"),
        (lambda m: m | {"scores": {"a": "b"}}, "scores.'a': expected float, found 'b'"),
        (lambda m: m | {"scores": {"a": float("nan")}}, "expected finite numbers, found 'NaN'"),
        (lambda m: m | {"training": {"a": float("-inf")}}, "found '-Infinity'"),
        (lambda m: m | {"licence": 3}, "licence: expected str, found 3"),
        (lambda m: m | {"version": True}, "expected bundle format 1 or 2, found True"),
        (lambda m: m | {"version": 2.0}, "expected bundle format 1 or 2, found 2.0"),
        (lambda m: m | {"x" * 100_000: 1}, "unknown field 'xxx"),
        (lambda m: {k: v for k, v in m.items() if k != "scale"}, "no field scale"),
        (lambda m: 3, "expected a JSON object, found 3"),
        (deep(40), "nested more than 32 deep"),
        (deep(900), "nested more than 32 deep"),
    ],
)
def test_every_field_is_of_its_type(path, change, message):
    test_metadata_of_another_time(path, change, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested more than 32 deep"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested more than 32 deep"),
        ('{"scale": 2, "scale": 4}', "a field twice: 'scale'"),
        ('{"version": 2, "scale": 1e999}', "expected finite numbers, found '1e999'"),
        ('{"version": 2, "scale": ' + "9" * 5000 + "}", "metadata is damaged"),
        ("", "metadata is damaged"),
    ],
)
def test_json_that_no_one_means(path, text, message):
    rewrite(path, lambda header: header["__metadata__"].update(maskgit_sr=text))
    began = time.monotonic()
    said = error(path)
    assert message in said and len(said) <= LONGEST and time.monotonic() - began < 1


def test_a_header_may_not_be_of_any_length(path):
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 90_000_000))
        file.truncate(100_000_000)  # of holes
    assert "expected a header of at most 4,194,304 bytes, found 90,000,000" in error(path)


def test_a_special_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "expected a file" in error(tmp_path / "pipe.safetensors")


def test_names_and_shapes_are_checked_before_the_arrays_are_read(path, monkeypatch):
    monkeypatch.setattr(bundles.epath, "Path", None)
    assert "missing: codebook/other" in error(path, {"codebook": {"other": np.zeros(1)}})


@pytest.mark.parametrize("name", ["generator/scale/more", "codebook", "codebook/embedding/a/b"])
def test_names_that_contain_each_other(path, name):
    def change(header):
        header[name] = header.pop("generator/layers/0/kernel")
        own = json.loads(header["__metadata__"]["maskgit_sr"])
        header["__metadata__"] = {"maskgit_sr": json.dumps(own | {"version": 1, "digest": ""})}

    rewrite(path, change)
    assert "its arrays" in error(path)


def test_every_flipped_bit_is_refused(path):
    whole, sound = path.read_bytes(), bundles.read(path)[1]
    (size,) = struct.unpack("<Q", whole[:8])
    # All of the metadata's text, and some of the rest.
    places = {*range(8, 8 + size), *range(0, len(whole), 7)}
    rng = np.random.default_rng(0)
    for place in sorted(places):
        blob = bytearray(whole)
        blob[place] ^= 1 << rng.integers(8)
        path.write_bytes(blob)
        try:
            metadata = bundles.read(path)[1]
        except UserError as caught:
            assert str(caught).startswith(f"{path}: ") and len(str(caught)) <= LONGEST
        else:  # the name under which the digest stands; nothing else may differ
            assert b"maskgit_sr.sha256" not in blob and metadata == sound, place


def test_metadata_that_were_changed_are_damage(path):
    def change(header):
        own = header["__metadata__"]
        own["maskgit_sr"] = own["maskgit_sr"].replace("25.5", "15.5")

    rewrite(path, change)
    assert "damaged: the digest of its metadata" in error(path)
    # Bundles written before have no digest of it.
    rewrite(path, lambda header: header["__metadata__"].pop("maskgit_sr.sha256"))
    assert bundles.read(path)[1].scores == {"set5/psnr_y": 15.5}


def test_what_is_written_twice_is_the_same_file(path):
    first = path.read_bytes()
    for _ in range(8):
        bundles.write(path, PARAMS, METADATA)
        assert path.read_bytes() == first
    (size,) = struct.unpack("<Q", first[:8])
    assert size % 8 == 0  # arrays are aligned


def test_arrays_that_were_changed_are_damage(path):
    blob = bytearray(path.read_bytes())
    blob[-3] ^= 1
    path.write_bytes(blob)
    assert "damaged: the digest of its arrays" in error(path)
    assert bundles.read_metadata(path).method == "realsrt"  # the header alone


def test_the_digest_is_of_what_the_file_holds(tmp_path):
    digests = []
    for dtype in (np.float32, ml_dtypes.bfloat16):
        path = tmp_path / "model.safetensors"
        bundles.write(path, PARAMS, METADATA, dtype)
        params, metadata = bundles.read(path)
        bundles.write(path, params, metadata, dtype)  # what was read is written again
        assert bundles.read(path)[1] == metadata
        digests.append(metadata.digest)
    assert digests[0] != digests[1]


def format_1(path, config):
    """Makes a written bundle one of format 1."""

    def change(header):
        own = json.loads(header["__metadata__"]["maskgit_sr"])
        del own["digest"]
        text = json.dumps(own | {"version": 1, "config": config})
        header["__metadata__"]["maskgit_sr"] = text

    rewrite(path, change)


NETWORK = {"channels": [32, 32], "remat": False}


def test_format_1_is_read_as_format_2(path):
    config = {
        "tokenizer": NETWORK,
        "losses": {"pixel": "l1"},
        "discriminator": {"filters": 8},
        "tile": {"size": 64, "stride": 24, "variance": 0.05},
        "control": {"multiscale": False, "sharpen": 0.0},
        "steps": 4,
    }
    format_1(path, config)
    params, metadata = bundles.read(path, PARAMS)
    np.testing.assert_equal(params, PARAMS)
    assert metadata.method == "realsrt" and metadata.scale == 4 and metadata.digest == ""
    assert metadata.config == {
        "tokenizer": {"channels": [32, 32]},
        "tile": {"sides": [64], "overlap": 40, "variance": 0.05},
        "steps": 4,
    }
    bundles.write(path, params, metadata)
    assert bundles.read_metadata(path).version == 2


def test_a_control_module_that_is_no_more_is_refused(path):
    format_1(path, {"control": {"multiscale": True, "network": NETWORK}})
    with pytest.raises(UserError, match="model: unknown field 'control'") as caught:
        load.load(path)
    assert "\n" not in str(caught.value)


def test_broken_json(path):
    rewrite(path, lambda header: header["__metadata__"].update(maskgit_sr="{"))
    assert "metadata is damaged" in error(path)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device"):
        bundles.write(path, PARAMS, METADATA)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


def test_metadata_that_no_reader_would_take_are_not_written(tmp_path):
    metadata = dataclasses.replace(METADATA, training={"loss": float("nan")})
    with pytest.raises(UserError, match="metadata: expected finite numbers"):
        bundles.write(tmp_path / "model.safetensors", PARAMS, metadata)
    assert not [*tmp_path.iterdir()]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        bundles.write(tmp_path / "file" / "model.safetensors", PARAMS, METADATA)
