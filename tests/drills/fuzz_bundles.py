"""Small bundles of every method, made here, and their mutations; see `fuzz`."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from fuzz import Fault, refusal
from fuzz_pictures import cut_short, flip_bits, insert_run, leave_out, repeat_part, set_number

from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.inference import load
from maskgit_sr.methods import registry

_KEY, _SEAL = "maskgit_sr", "maskgit_sr.sha256"
_NETWORK = {"dim": 8, "heads": 1, "head_dim": 8, "code_width": 8, "grid": [2, 2]}
_NETWORK |= {"encoder_depth": 1, "decoder_depth": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "structure": {
        "structure": {"width": 4, "depth": 2, "scale": 2},
        "tile": {"sides": [8, 16], "overlap": 4, "variance": 0.0},
    },
    "subpixel": {"tile": {"sides": [16], "overlap": 4, "variance": 0.05}},
    "realsrt": {
        "tokenizer": {
            **{"channels": [8], "patch": 8, "code_width": 8, "codes": 16, "groups": 0},
            **{"encoder_blocks": 1, "decoder_blocks": 1, "encoder_bottom": 0, "decoder_bottom": 0},
        },
        "generator": {**_NETWORK, "outputs": 16, "masked": True, "sharpness": 2.0},
        "critic": {**_NETWORK, "outputs": 1, "masked": False, "sharpness": 2.0},
        "tile": {"sides": [4], "overlap": 2, "variance": 0.05},
        **{"schedule": "sqrt", "steps": 2},
    },
}


@functools.cache
def seeds() -> dict[str, bytes]:
    """Returns sound bundles by name: as they are written, as they were before, and of format 1."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.safetensors"
        for name, config in CONFIGS.items():
            method = registry.build(name, config)
            rng = np.random.default_rng(0)
            params = jax.tree.map(lambda s, r=rng: r.normal(0, 0.1, s.shape), method.shapes())
            scores = {"realsr/lpips_alex": 0.25}
            facts = {"data": "none", "stages": {"one": {"steps": 3, "seconds": 1.5}}}
            metadata = bundles.Metadata(name, config, method.scale, "none", facts, scores)
            bundles.write(path, params, metadata)
            found[name] = path.read_bytes()
            load.load(path)  # what is set up at the first load is not a case's time
    header, body = parted(found["structure"])
    del header["__metadata__"][_SEAL]
    found["unsealed"] = joined(header, body)
    header, body = parted(found["realsrt"])
    values = json.loads(header["__metadata__"].pop(_KEY))
    tile = {"size": 4, "stride": 2, "variance": 0.05, "cell": 2}
    values["config"] |= {"tile": tile, "losses": {}, "control": {"multiscale": False}}
    del values["digest"]
    header["__metadata__"] = {_KEY: json.dumps(values | {"version": 1})}
    found["format_1"] = joined(header, body)
    return found


@functools.cache
def sound() -> dict[str, bundles.Metadata]:
    """Returns the metadata of the bundles that were written here."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.safetensors"
        for name in CONFIGS:
            path.write_bytes(seeds()[name])
            found[name] = bundles.read_metadata(path)
    return found


def trial(data: bytes, seed: int) -> tuple[str, str]:
    """Loads a bundle as every command does, and traces one that was taken.

    Raises:
        Fault: it was taken, though bits of its metadata were flipped.
        Exception: anything that is not a UserError.
    """
    _, name, steps = _mutated(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            upscaler = load.load(path)
        except UserError as error:
            return "refused", refusal(error)
    # What is left is the name under which the metadata's digest stands.
    if steps == ["flip_bits"] and name in CONFIGS and upscaler.metadata != sound()[name]:
        raise Fault("taken with other metadata")
    if seed % 4 == 0:
        side = upscaler.method.tile.sides[-1]
        lr = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        options = upscaler.options()
        jax.eval_shape(
            lambda p, lr, keys: upscaler.method.restore(p, lr, keys, options),
            *(upscaler.params, lr, keys),
        )
    return "loaded", ""


def case(seed: int) -> bytes:
    """Returns the mutated file of a seed."""
    return _mutated(seed)[0]


def told(seed: int) -> str:
    """Returns how that file was made."""
    _, name, steps = _mutated(seed)
    return " + ".join((name, *steps))


@functools.lru_cache(4)
def _mutated(seed: int) -> tuple[bytes, str, list[str]]:
    rng = random.Random(f"bundle {seed}")
    # Seldom those whose networks take a second to build.
    name = rng.choice(("structure", "unsealed", "subpixel") * 4 + ("realsrt", "format_1"))
    data, steps = seeds()[name], []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        try:
            data = mutation(data, rng)
        except WORN:
            continue  # an earlier mutation left nothing that it could take apart
        steps.append(mutation.__name__)
    return data, name, steps


# ---------------------------------------------------------------- mutations


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header and the arrays' bytes of a bundle."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: Any, body: bytes) -> bytes:
    """Returns the bundle of a header, an object or its text, and the arrays' bytes."""
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + body


_DEEP = "deep-deep-deep"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, -4, 1, 3, 64, 513, 10**6, 10**9, 2**63, 10**40, 0.0, -1.5, 4.0, 1e300,
    float("nan"), float("inf"), "", "x", "4", "\0\n\x1b[31m", "\ud800", "x" * 100_000, [], [0],
    [1, 2], [[]], ["a"], [None], [10**9], {}, {"a": 1}, {"a": {"b": [{}]}}, [1] * 100_000, _DEEP,
)  # fmt: skip


def _texted(tree: Any, rng: random.Random) -> str:
    """Returns JSON in which `_DEEP` is as deeply nested as no one means it."""
    text = json.dumps(tree)
    depth = rng.choice((20, 40, 900, 5000, 100_000))
    left, right = rng.choice((("[", "]"), ('{"a":', "}")))
    return text.replace(json.dumps(_DEEP), left * depth + "0" + right * depth)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Returns (container, key) of every value of a tree."""
    found, level = [], [tree]
    while level:
        part = level.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in keys:
            found.append((part, key))
            if isinstance(part[key], dict | list):
                level.append(part[key])
    return found


def _changed(tree: Any, rng: random.Random) -> None:
    """Replaces, removes, renames or adds a value in place."""
    part, key = rng.choice(_places(tree))
    what = rng.random()
    odd = copy.deepcopy(rng.choice(ODD))  # which a later change would change for all cases
    if what < 0.7:
        part[key] = odd
    elif what < 0.8:
        del part[key]
    elif isinstance(part, dict):
        name = rng.choice(("surprise", "x" * 100_000, "\n", "", "a/b", "__class__", "self"))
        part[name] = part.pop(key) if what < 0.9 else odd
    else:
        part.append(odd)


def metadata(data: bytes, rng: random.Random) -> bytes:
    """Changes the JSON of the metadata; whoever does may state its digest anew."""
    header, body = parted(data)
    texts = header["__metadata__"]
    values = json.loads(texts[_KEY])
    inner = values["config"] if rng.random() < 0.6 else values
    for _ in range(rng.choice((1, 1, 2))):
        _changed(inner, rng)
    texts[_KEY] = _texted(values, rng)
    if _SEAL in texts and rng.random() < 0.7:
        sealed = texts[_KEY].encode("utf-8", "surrogatepass")
        texts[_SEAL] = hashlib.sha256(sealed).hexdigest()
    return joined(header, body)


def metadata_text(data: bytes, rng: random.Random) -> bytes:
    """Changes the text of that JSON: a field twice, parts left out, other bytes."""
    header, body = parted(data)
    texts = header["__metadata__"]
    text, what = texts[_KEY], rng.randrange(4)
    if what == 0:
        text = text.replace('"scale":', '"scale": 3, "scale":')
    elif what == 1:
        text = rng.choice(("", "{", "[]", "3", "null", "NaN", '"x"', "[" * 100_000, text + text))
    elif what == 2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(('"', "{", "}", "[", ",", ":", "1e999", "-")) + text[at + 1 :]
    else:
        texts[rng.choice((_KEY, _SEAL, "other"))] = rng.choice((1, None, {}, [], "x" * 300_000))
        return joined(header, body)
    texts[_KEY] = text
    return joined(header, body)


def header(data: bytes, rng: random.Random) -> bytes:
    """Changes what the header says of the arrays."""
    tree, body = parted(data)
    names = [name for name in tree if name != "__metadata__"]
    name, what = rng.choice(names), rng.randrange(8)
    entry = tree[name]
    if what == 0:
        entry["dtype"] = rng.choice(("F64", "I8", "BF16", "F16", "U64", "bool", "", 3, None))
    elif what == 1:
        entry["shape"] = rng.choice(([], [0], [-1], [2**40, 2**40], [1.5], "x", [1] * 5000))
    elif what == 2:
        entry["shape"] = [1, *entry["shape"]]
    elif what == 3:
        numbers = (0, -1, 1, len(body), len(body) + 1, 2**63, 2**64, 1e3, "0")
        entry["data_offsets"] = [rng.choice(numbers), rng.choice(numbers)]
    elif what == 4:
        del tree[name]
    elif what == 5:
        other = rng.choice(("x" * 100_000, "a/b", "", "\n", name + "/more", "/".join("a" * 50_000)))
        tree[other] = tree.pop(name)
    elif what == 6:
        _changed(tree, rng)
    else:
        text = json.dumps(tree)
        return joined(text[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}", body)
    return joined(_texted(tree, rng), body)


def length(data: bytes, rng: random.Random) -> bytes:
    """States another length of the header."""
    (size,) = struct.unpack("<Q", data[:8])
    choices = (0, 1, 2, size - 1, size + 1, 10**8, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
    return struct.pack("<Q", rng.choice(choices)) + data[8:]


def values(data: bytes, rng: random.Random) -> bytes:
    """Sets an array to a number that no network has, and states the digest of that."""
    tree, body = parted(data)
    bad = np.float32(rng.choice((np.nan, np.inf, -np.inf, 1e38, -3e38))).tobytes()
    own = json.loads(tree["__metadata__"][_KEY])
    name = rng.choice([name for name in tree if name != "__metadata__"])
    begin, end = tree[name]["data_offsets"]
    count = (end - begin) // 4
    body = body[:begin] + bad * count + body[begin + 4 * count :]
    if own.get("digest"):
        stored = {
            key: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
            for key, entry in tree.items()
            if key != "__metadata__"
        }
        own["digest"] = bundles._digest(stored)
        text = tree["__metadata__"][_KEY] = json.dumps(own)
        tree["__metadata__"][_SEAL] = hashlib.sha256(text.encode()).hexdigest()
    return joined(tree, body)


WORN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
WORN += (struct.error,)
MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *[metadata] * 6, metadata_text, header, header, length, values, flip_bits, flip_bits, cut_short,
    insert_run, leave_out, repeat_part, set_number,
)  # fmt: skip
