"""Converts RealSRT's released PyTorch checkpoint (``net_g_80000.pth``) to a bundle.

Only :func:`read_state` needs PyTorch. The rest is driven by the shapes of our own method: each of
our parameters names the entry it comes from, and an entry that none names is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.convert import check_target, float_arrays, origin, read_torch, write_bundle
from maskgit_sr.errors import UserError
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig
from maskgit_sr.models.functional import flatten, unflatten
from maskgit_sr.ops.positions import sincos_2d

State = Mapping[str, np.ndarray]

_CODEBOOK = "vae.quantizer.codebooks.0.weight"
# moving averages that update the codebook in training; inference does not read them
_TRAINING_ONLY = tuple(f"vae.quantizer.codebooks.0.{x}_ema" for x in ("cluster_size", "embed"))
_TRANSFORMERS = ("generator", "critic")
# both transformers hold a copy of the frozen codebook, which a bundle stores once
_COPIES = tuple(f"{group}.token_emb.weight" for group in _TRANSFORMERS)
_TOLERANCE = 1e-4
"""How far a constant may be from its definition. The checkpoint holds moving averages: averaging a
constant in float32 with decay 0.999 moves it by up to 1.3e-5 of its size."""

# Our names → theirs, applied in order to "group/path/to/parameter".
_TRANSFORMER_NAMES = (
    (r"/encoder/(\d+)/attention/", r"/enc_blocks/\1/0/"),
    (r"/encoder/(\d+)/feed_forward/", r"/enc_blocks/\1/1/"),
    (r"/decoder/(\d+)/attention/", r"/dec_blocks/\1/0/"),
    (r"/decoder/(\d+)/cross_attention/", r"/dec_blocks/\1/1/"),
    (r"/decoder/(\d+)/feed_forward/", r"/dec_blocks/\1/2/"),
    (r"/encoder_(in|norm)/", r"/enc_\1/"),
    (r"/decoder_(in|norm)/", r"/dec_\1/"),
    (r"/logits/", r"/to_logits/"),
    (r"/norm_in/", r"/0/"),
    (r"/up/", r"/1/"),
    (r"/norm_inner/", r"/3/"),
    (r"/down/", r"/4/"),
    (r"/query/", r"/to_q/"),
    (r"/key_value/", r"/to_kv/"),
    (r"/out/", r"/to_out/"),
    (r"/null$", r"/null_kv"),
    (r"/query_scale$", r"/q_scale"),
    (r"/key_scale$", r"/k_scale"),
    (r"/scale$", r"/gamma"),
    (r"/kernel$", r"/weight"),
)
_CONVOLUTION_NAMES = (
    (r"^tokenizer/", r"vae/"),
    (r"^control/encoder/", r"trainable_copy_encoder/"),
    (r"^control/fuse_in/", r"fuse_res1/"),
    (r"^control/fuse_out/", r"fuse_res2/"),
    (r"^control/zero/", r"zero_out/"),
    (r"^control/attention/(query|key|value|out)/", r"fuse_attn/\1/"),
    (r"^control/attention/norm/", r"fuse_attn/norm/gn/"),
    (r"^fuse_attn/([qkv])[a-z]+/", r"fuse_attn/\1/"),
    (r"^fuse_attn/out/", r"fuse_attn/proj_out/"),
    (r"/norm1/", r"/block/0/gn/"),
    (r"/conv1/", r"/block/2/"),
    (r"/norm2/", r"/block/3/gn/"),
    (r"/conv2/", r"/block/5/"),
    (r"/shortcut/", r"/channel_up/"),
    (r"/(scale|kernel)$", r"/weight"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """The entry of the checkpoint that one of our parameters comes from.

    Attributes:
        name: key in the checkpoint.
        shape: the array's shape there.
        layout: ``conv`` (OIHW), ``linear`` (outputs, inputs), ``codebook`` (a padding row at the
            end) or ``plain`` (ours, up to axes of length 1).
        target: our shape.
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    target: tuple[int, ...]

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], *, kernel: bool) -> Entry:
        """Returns the entry of a ``kernel`` or of another array, ours being of ``shape``."""
        if kernel and len(shape) == 4:
            return cls(name, (shape[3], shape[2], *shape[:2]), "conv", shape)
        if kernel:
            return cls(name, shape[::-1], "linear", shape)
        return cls(name, shape, "plain", shape)

    def read(self, state: State) -> np.ndarray:
        """Returns the array in our layout, float32."""
        array = state[self.name]
        if self.layout == "conv":
            array = array.transpose(2, 3, 1, 0)  # OIHW → HWIO
        elif self.layout == "linear":
            array = array.T
        elif self.layout == "codebook":
            array = array[:-1]
        return np.ascontiguousarray(array, np.float32).reshape(self.target)


@functools.lru_cache(maxsize=2)
def entries(config: RealSRTConfig) -> Mapping[str, Entry]:
    """Returns the checkpoint's entry of each of our parameters, by our name ("group/path")."""
    flat = flatten(RealSRT(config).shapes())
    return {name: _entry(name, tuple(leaf.shape), flat) for name, leaf in flat.items()}


def constants(config: RealSRTConfig) -> dict[str, np.ndarray]:
    """Returns the entries of fixed value, which we do not store: positions and norm shifts."""
    known = {}
    for group in _TRANSFORMERS:
        network = getattr(config, group)
        height, width = network.grid
        known[f"{group}.pos_emb"] = sincos_2d(height, width, network.dim)[None]
    for entry in entries(config).values():
        if entry.name.endswith(".gamma"):
            known[f"{entry.name.removesuffix('gamma')}beta"] = np.zeros(entry.shape, np.float32)
    return known


def expected_shapes(config: RealSRTConfig) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every entry that a checkpoint must hold."""
    expected = {entry.name: entry.shape for entry in entries(config).values()}
    expected |= {name: value.shape for name, value in constants(config).items()}
    return expected | {name: expected[_CODEBOOK] for name in _COPIES}


def map_state(state: State, config: RealSRTConfig, where: str = "checkpoint") -> Params:
    """Converts arrays of the PyTorch network to parameters of :class:`RealSRT` with `config`.

    Raises:
        UserError: entries are missing, unknown or of another shape, or fixed entries differ from
            the values that this package computes with; the first few are named.
    """
    found = {name: array for name, array in state.items() if name not in _TRAINING_ONLY}
    expected = expected_shapes(config)
    structs = {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in expected.items()}
    bundles.check(found, structs, where)

    # Dropped after this check: with other values our network would compute something else.
    off = [name for name, value in constants(config).items() if not _close(state[name], value)]
    if off:
        named = ", ".join(sorted(off)[:3])
        raise UserError(
            f"{where}: expected the published positions and zero shifts, found others: {named}"
        )
    codebook = state[_CODEBOOK][:-1]
    for name in _COPIES:
        if not _close(state[name][:-1], codebook):
            raise UserError(f"{where}: {name}: expected a copy of {_CODEBOOK}, found other vectors")
    return unflatten({name: entry.read(state) for name, entry in entries(config).items()})


def read_state(source: Path) -> dict[str, np.ndarray]:
    """Reads ``params_ema`` of a PyTorch checkpoint as float32; nothing in the file is executed.

    Raises:
        UserError: as :func:`read_torch`, or the file holds something else.
    """
    content = read_torch(source)
    tensors = content.get("params_ema")
    if not isinstance(tensors, dict):
        keys = ", ".join(sorted(map(str, content))[:3]) or "nothing"
        raise UserError(f"{source}: expected a checkpoint with params_ema, found {keys}")
    return float_arrays(tensors, source)


def convert(
    source: Path, target: Path, *, overwrite: bool = False, config: RealSRTConfig | None = None
) -> dict[str, Any]:
    """Writes the bundle of a released RealSRT checkpoint.

    Args:
        source: ``net_g_80000.pth`` of the public PyTorch code.
        target: the bundle, ``.safetensors``; float32.
        overwrite: replace an existing target.
        config: sizes of the network; None: the published ones.

    Returns:
        ``{"parameters": total, "groups": {group: parameters}}``.

    Raises:
        UserError: as :func:`read_state` and :func:`map_state`, or the target exists or cannot be
            written.
    """
    check_target(target, overwrite)
    method = RealSRT(config or RealSRTConfig())
    params = map_state(read_state(source), method.config, str(source))
    training: dict[str, Any] = {
        "source": "converted from the public PyTorch code, USTC-JialunPeng/RealSRT",
        **origin(source),
    }
    if method.config == RealSRTConfig():
        training["data"] = "DIV2K, Flickr2K, OutdoorScene; second-order degradation of Real-ESRGAN"
    return write_bundle(target, method, params, licence="MIT", training=training)


def _entry(name: str, shape: tuple[int, ...], flat: Mapping[str, Any]) -> Entry:
    if name == "codebook/embedding":
        return Entry(_CODEBOOK, (shape[0] + 1, shape[1]), "codebook", shape)
    theirs = _sequential(name, flat)
    rules = _TRANSFORMER_NAMES if name.split("/")[0] in _TRANSFORMERS else _CONVOLUTION_NAMES
    for pattern, replacement in rules:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = theirs.replace("/", ".")
    if name.endswith("/null"):
        return Entry(theirs, (*shape[:2], 1, shape[2]), "plain", shape)
    if name.endswith("/mask_token"):
        return Entry(theirs, (1, 1, *shape), "plain", shape)
    return Entry.of(theirs, shape, kernel=name.endswith("/kernel"))


def _sequential(name: str, flat: Mapping[str, Any]) -> str:
    """Returns the name with a tokenizer layer's index in PyTorch's single list of layers."""
    match = re.fullmatch(r"(.*coder)/(conv_in|layers/(\d+)|norm_out|conv_out)/(.*)", name)
    if match is None:
        return name
    stack, part, index, rest = match.groups()
    layers = f"{stack}/layers/"
    last = max(int(n.removeprefix(layers).split("/")[0]) for n in flat if n.startswith(layers))
    if index is not None:
        return f"{stack}/model/{int(index) + 1}/{rest}"
    # conv_in, layers, norm_out, swish, conv_out: the swish has an index and no parameters
    place = {"conv_in": "0", "norm_out": f"{last + 2}/gn", "conv_out": f"{last + 4}"}[part]
    return f"{stack}/model/{place}/{rest}"


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    # relative to the largest value, as the error of averaging is
    size = max(1.0, float(np.abs(expected).max()))
    return bool(np.all(np.abs(found - expected) <= _TOLERANCE * size))
