"""Converts ITER's released PyTorch checkpoints (``ITER_x4.pth``, ``ITER_x2.pth``) to a bundle.

The tokenizer is in the same file, or in ``ITER_swinvqgan.pth``. Each of our parameters names the
entry it comes from; an entry that none names is an error. The published weights may not be used
commercially.
"""

from __future__ import annotations

import dataclasses
import functools
import math
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
from maskgit_sr.methods.iter import ITERConfig
from maskgit_sr.methods.iter_training import ITER
from maskgit_sr.models.functional import flatten, unflatten

State = Mapping[str, np.ndarray]

LICENCE = "CC BY-NC-SA 4.0 and S-Lab License 1.0 (chaofengc/ITER): non-commercial use only"
_TOKENIZER = "vqgan."
"""Prefix of the tokenizer's entries in the file of the token networks."""
# The decoder under a second name.
_ALIAS, _ORIGINAL = "generator.", "decoder."
# Which rows of the bias table a pair has, and the masks of a 32×32 grid: computed, not learned.
_BUFFERS = re.compile(r"\.attn\.relative_position_index$|\.attn_mask$")

# Our names → theirs, applied in order to "group/path/to/parameter".
_NAMES = (
    (r"/groups/(\d+)/blocks/", r"/swin_blks/\1/residual_group/blocks/"),
    (r"/groups/(\d+)/conv/", r"/swin_blks/\1/conv/"),
    (r"/attention/qkv/", r"/attn/qkv/"),
    (r"/attention/out/", r"/attn/proj/"),
    (r"/attention/bias$", r"/attn/relative_position_bias_table"),
    (r"/mlp/up/", r"/mlp/fc1/"),
    (r"/mlp/down/", r"/mlp/fc2/"),
    (r"/mlp/squeeze/", r"/mlp/attn/0/"),
    (r"/mlp/excite/", r"/mlp/attn/2/"),
    (r"^tokenizer/", r"vqgan/"),
    (r"/shortcut/", r"/conv_out/"),
    (r"^codebook/embedding$", r"vqgan/quantize/embedding/weight"),
    (r"^refinement/", r"token_refine_net/token_refine_net/"),
    (r"^evaluation/", r"token_refine_net/token_crit_net/"),
    (r"_net/embed/", r"_net/code_emb/"),
    (r"_net/swin/", r"_net/swin_layers/"),
    (r"_net/norm_out/", r"_net/conv_out/0/"),
    (r"_net/logits/", r"_net/conv_out/2/"),
    (r"/(scale|kernel)$", r"/weight"),
)
_RESIDUAL = {"norm1": "conv/0/norm", "conv1": "conv/2", "norm2": "conv/3/norm", "conv2": "conv/5"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """The entry of the checkpoint that one of our parameters comes from.

    Attributes:
        name: key in the checkpoint, the tokenizer's behind ``vqgan.``.
        shape: the array's shape there.
        axes: order of its axes that gives ours; other arrays are the same.
        target: our shape.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    target: tuple[int, ...]

    def read(self, state: State) -> np.ndarray:
        """Returns the array in our layout, float32."""
        array = state[self.name]
        if self.axes is not None:
            array = array.transpose(self.axes)
        return np.ascontiguousarray(array, np.float32).reshape(self.target)


@functools.lru_cache(maxsize=2)
def _method(config: ITERConfig) -> ITER:
    """Returns the method; thousands of parameters take their time to be described."""
    return ITER(config)


@functools.lru_cache(maxsize=2)
def entries(config: ITERConfig) -> Mapping[str, Entry]:
    """Returns the checkpoint's entry of each of our parameters, by our name ("group/path")."""
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(_method(config).shapes()).items()}
    downs = int(math.log2(config.tokenizer.factor / config.scale))
    return {name: _entry(name, shape, downs) for name, shape in shapes.items()}


def _entry(name: str, shape: tuple[int, ...], downs: int) -> Entry:
    theirs = _removal(name, downs) if name.startswith("encoder/") else name
    for pattern, replacement in _NAMES:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = theirs.replace("/", ".")
    if not name.endswith("/kernel"):
        return Entry(theirs, shape, None, shape)
    if len(shape) == 4:
        return Entry(theirs, (shape[3], shape[2], *shape[:2]), (2, 3, 1, 0), shape)  # OIHW → HWIO
    if "/attention/" in name or "/mlp/" in name:
        return Entry(theirs, shape[::-1], (1, 0), shape)
    return Entry(theirs, (*shape[::-1], 1, 1), (2, 3, 1, 0), shape)  # 1×1 convolutions there


def _removal(name: str, downs: int) -> str:
    """Returns E_l's name with the indices of the public network's single list of layers."""
    part, rest = name.removeprefix("encoder/").split("/", 1)
    if part == "layers":
        index, rest = rest.split("/", 1)
        # A convolution first and last; three layers for each halving between them.
        level, layer = divmod(int(index) - 1, 3)
        inner = rest.split("/")[0]
        if int(index) == 0:
            part = "0"
        elif level == downs:
            part = str(downs + 1)
        else:
            part = f"{level + 1}/{layer}"
            rest = rest.replace(inner, _RESIDUAL[inner]) if inner in _RESIDUAL else rest
    else:
        part = str(downs + {"swin": 2, "logits": 3}[part])
    return f"lq_encoder/model/{part}/{rest}"


def map_state(state: State, config: ITERConfig, where: str = "checkpoint") -> Params:
    """Converts arrays of the PyTorch network, the tokenizer's behind ``vqgan.``, to parameters.

    Raises:
        UserError: entries are missing, unknown or of another shape; the first few are named.
    """
    table = entries(config)
    expected = {
        entry.name: jax.ShapeDtypeStruct(entry.shape, np.float32) for entry in table.values()
    }
    bundles.check(dict(state), expected, where)
    return unflatten({name: entry.read(state) for name, entry in table.items()})


def read_state(source: Path) -> dict[str, np.ndarray]:
    """Reads ``params_ema``, else ``params``, of a checkpoint as float32, without what is computed.

    Nothing in the file is executed.

    Raises:
        UserError: as :func:`read_torch`, the file holds something else, or the decoder's second
            copy differs from the first.
    """
    content = read_torch(source)
    tensors = content.get("params_ema", content.get("params"))
    if not isinstance(tensors, dict):
        keys = ", ".join(sorted(map(str, content))[:3]) or "nothing"
        raise UserError(f"{source}: expected a checkpoint with params, found {keys}")
    return learned(float_arrays(tensors, source), str(source))


def learned(arrays: State, where: str = "checkpoint") -> dict[str, np.ndarray]:
    """Returns the entries that training changes, each once.

    Raises:
        UserError: the decoder's second copy differs from the first.
    """
    state = {name: array for name, array in arrays.items() if not _BUFFERS.search(name)}
    for name in [n for n in state if n.removeprefix(_TOKENIZER).startswith(_ALIAS)]:
        original = name.replace(_ALIAS, _ORIGINAL, 1)
        if original not in state or not np.array_equal(state[name], state[original]):
            raise UserError(f"{where}: {name}: expected a copy of {original}, found other numbers")
        del state[name]
    return state


def read_states(networks: Path, tokenizer: Path | None, scale: int) -> dict[str, np.ndarray]:
    """Returns the entries of the token networks' file, with those of the tokenizer's file.

    Raises:
        UserError: as :func:`read_state`; a tokenizer alone where the token networks are expected;
            networks of another scale; no tokenizer, or two different ones.
    """
    state = read_state(networks)
    if not any(name.startswith("lq_encoder.") for name in state):
        found = "a tokenizer" if any(n.startswith("encoder.") for n in state) else "none"
        raise UserError(
            f"{networks}: expected the token networks, as in ITER_x{scale}.pth, found {found}"
        )
    # One more halving has one more layer; the last one of all is the logits'.
    layers = {int(n.split(".")[2]) for n in state if re.match(r"lq_encoder\.model\.\d+\.", n)}
    found_scale = 8 // 2 ** max(max(layers, default=0) - 3, 0)
    if found_scale != scale:
        raise UserError(
            f"{networks}: expected networks of scale {scale}, found those of scale {found_scale}"
        )
    given = {} if tokenizer is None else read_state(tokenizer)
    if given and not any(name.startswith("encoder.") for name in given):
        raise UserError(f"{tokenizer}: expected a tokenizer, as in ITER_swinvqgan.pth, found none")
    given = {f"{_TOKENIZER}{name}": array for name, array in given.items()}
    inside = [name for name in state if name.startswith(_TOKENIZER)]
    if not given and not inside:
        raise UserError(f"{networks}: has no tokenizer; give ITER_swinvqgan.pth by --tokenizer")
    for name in inside if given else ():
        if name in given and not np.array_equal(state[name], given[name]):
            raise UserError(
                f"{tokenizer}: {name.removeprefix(_TOKENIZER)}: expected the numbers of "
                f"{networks}, found others"
            )
    return state | given


def convert(
    source: Path,
    target: Path,
    *,
    tokenizer: Path | None = None,
    scale: int = 4,
    window: int | None = None,
    overwrite: bool = False,
    config: ITERConfig | None = None,
) -> dict[str, Any]:
    """Writes the bundle of released ITER checkpoints.

    Args:
        source: ``ITER_x4.pth`` or ``ITER_x2.pth``.
        target: the bundle, ``.safetensors``; float32.
        tokenizer: ``ITER_swinvqgan.pth``; needed where ``source`` has no tokenizer.
        scale: 4 or 2, that of ``source``.
        window: largest side of the windows, in LR pixels, by whose means the gates are set; None:
            as ``config`` has it.
        overwrite: replace an existing target.
        config: sizes of the networks; None: the published ones of ``scale``.

    Returns:
        ``{"parameters": total, "groups": {group: parameters}}``.

    Raises:
        UserError: as :func:`read_states`, :func:`map_state` and :func:`widened`, another scale than
            2 or 4, or the target exists or cannot be written.
    """
    check_target(target, overwrite)
    config = config or published(scale)
    if window is not None:
        config = widened(config, window)
    state = read_states(source, tokenizer, config.scale)
    params = map_state(state, config, str(source))
    training: dict[str, Any] = {"source": "converted from the public PyTorch code, chaofengc/ITER"}
    for name, path in (("networks", source), ("tokenizer", tokenizer)):
        if path is not None:
            training[name] = origin(path)
    return write_bundle(target, _method(config), params, licence=LICENCE, training=training)


def published(scale: int) -> ITERConfig:
    """Returns the published sizes of a scale.

    Raises:
        UserError: it is neither 2 nor 4.
    """
    if scale not in (2, 4):
        raise UserError(f"scale: expected 2 or 4, found {scale}")
    config = ITERConfig(scale=scale)
    if scale == 4:
        return config
    # Windows of the same token grids.
    tile = config.tile
    sides = tuple(2 * side for side in tile.sides)
    wider = dataclasses.replace(tile, sides=sides, overlap=2 * tile.overlap)
    return dataclasses.replace(config, tile=wider)


def widened(config: ITERConfig, window: int) -> ITERConfig:
    """Returns ``config`` with ``window``, in LR pixels, as the largest side of its windows.

    Raises:
        UserError: its tokens are not whole attention windows, or it is no wider than the overlap.
    """
    multiple = config.tokenizer.window * config.tokenizer.factor // config.scale
    sides = (*(side for side in config.tile.sides if side < window), window)
    try:
        if window < 1 or window % multiple:
            raise ValueError(f"expected a multiple of {multiple}, found {window}")
        tile = dataclasses.replace(config.tile, sides=sides)
    except ValueError as error:
        raise UserError(f"window: {error}") from None
    return dataclasses.replace(config, tile=tile)
