"""Converts MaskGIT's released checkpoints, Flax msgpack files, to a bundle.

The files are the ``tokenizer`` and ``maskgit`` checkpoints, imagenet256 and imagenet512, of
google-research/maskgit. Each of our parameters names the entry it comes from (`entries`), which
serves both directions; an entry that none names is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.convert import check_target, origin, write_bundle
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method
from maskgit_sr.models.functional import Network, flatten, unflatten
from maskgit_sr.models.maskgit_transformer import MaskGITTransformer, MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig
from maskgit_sr.models.serialization import restore_msgpack

Config = MaskGITVQGANConfig | MaskGITTransformerConfig
State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of both networks; the defaults are those of the 512×512 files."""

    tokenizer: MaskGITVQGANConfig = MaskGITVQGANConfig()
    transformer: MaskGITTransformerConfig = MaskGITTransformerConfig()


@dataclasses.dataclass(frozen=True)
class Entry:
    """Name and shape, in a checkpoint, of one of our parameters; its numbers are the same."""

    name: str
    shape: tuple[int, ...]


def published(grid: int) -> Sizes:
    """Returns the published sizes for a grid of ``grid``×``grid`` tokens: 32, or 16 for 256×256.

    Raises:
        UserError: ``grid`` is not 1 to 128.
    """
    if not 1 <= grid <= 128:
        raise UserError(f"grid: expected 1 to 128, found {grid}")
    return Sizes(transformer=MaskGITTransformerConfig(positions=grid**2 + 1))


# Our names → theirs, applied in order. Theirs are numbered by Linen in the order of a pass.
_BLOCK_NAMES = (
    (r"/blocks/(\d+)/norm1/", r"/ResBlock_\1/GroupNorm_0/"),
    (r"/blocks/(\d+)/conv1/", r"/ResBlock_\1/Conv_0/"),
    (r"/blocks/(\d+)/norm2/", r"/ResBlock_\1/GroupNorm_1/"),
    (r"/blocks/(\d+)/conv2/", r"/ResBlock_\1/Conv_1/"),
    (r"/blocks/(\d+)/shortcut/", r"/ResBlock_\1/Conv_2/"),
    (r"/norm_out/", r"/GroupNorm_0/"),
    (r"/conv_in/", r"/Conv_0/"),
    (r"^encoder/conv_out/", r"encoder/Conv_1/"),
    (r"^codebook/embedding$", r"quantizer/codebook"),
)
_TRANSFORMER_NAMES = (
    (r"^words/", r"Embed_0/word_embeddings/"),
    (r"^positions/", r"Embed_0/position_embeddings/"),
    (r"^norm_in/", r"Embed_0/embeddings_ln/"),
    (r"^layers/(\d+)/attention/", r"TransformerLayer_\1/Attention_0/self_attention/"),
    (r"^layers/(\d+)/norm_attention/", r"TransformerLayer_\1/Attention_0/attention_output_ln/"),
    (r"^layers/(\d+)/up/", r"TransformerLayer_\1/Mlp_0/intermediate_output/"),
    (r"^layers/(\d+)/down/", r"TransformerLayer_\1/Mlp_0/layer_output/"),
    (r"^layers/(\d+)/norm_mlp/", r"TransformerLayer_\1/Mlp_0/layer_output_ln/"),
    (r"^head/dense/", r"MlmLayer_0/mlm_dense/"),
    (r"^head/norm/", r"MlmLayer_0/mlm_ln/"),
    (r"^head/bias$", r"MlmLayer_0/mlm_bias/bias"),
)


def _decoder_names(config: MaskGITVQGANConfig) -> tuple[tuple[str, str], ...]:
    # The decoder's convolutions share one numbering: first, one per enlargement, last.
    last = len(config.multipliers)
    ups = ((rf"^decoder/ups/{i}/conv/", f"decoder/Conv_{i + 1}/") for i in range(last - 1))
    return (*ups, (r"^decoder/conv_out/", f"decoder/Conv_{last}/"))


@functools.lru_cache(maxsize=4)
def entries(config: Config) -> Mapping[str, Entry]:
    """Returns the checkpoint's entry of each parameter of a network, by our name ("a/b/c")."""
    flat = flatten(_shapes(config))
    return {name: _entry(name, tuple(leaf.shape), config) for name, leaf in flat.items()}


def _shapes(config: Config) -> Params:
    network: Network[Any]
    if isinstance(config, MaskGITVQGANConfig):
        network = Network(lambda rngs: MaskGITVQGAN(config, dtype=jnp.float32, rngs=rngs))
    else:
        network = Network(lambda rngs: MaskGITTransformer(config, dtype=jnp.float32, rngs=rngs))
    return network.shapes


def _entry(name: str, shape: tuple[int, ...], config: Config) -> Entry:
    if isinstance(config, MaskGITVQGANConfig):
        rules = (*_BLOCK_NAMES, *_decoder_names(config))
    else:
        rules = _TRANSFORMER_NAMES
        # Linen keeps the heads as an axis of their own.
        heads = (config.heads, config.dim // config.heads)
        if re.search(r"/attention/(query|key|value)/", name):
            shape = (*shape[:-1], *heads)
        elif name.endswith("/attention/out/kernel"):
            shape = (*heads, shape[1])
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return Entry(name, shape)


def from_official(state: State, config: Config, where: str = "checkpoint") -> Params:
    """Converts the entries of a checkpoint, by name, to parameters of the network of `config`.

    Raises:
        UserError: the transformer is of another grid, or entries are missing, unknown or of
            another shape; the first few are named.
    """
    table = entries(config)
    if isinstance(config, MaskGITTransformerConfig):
        # Before the names: this mistake is the likely one, and every other entry fits.
        positions = state.get(table["positions/embedding"].name)
        if positions is not None and positions.shape[:1] not in ((), (config.positions,)):
            raise UserError(
                f"{where}: expected a transformer of {_grid(config.positions)},"
                f" found one of {_grid(len(positions))}"
            )
    expected = {
        entry.name: jax.ShapeDtypeStruct(entry.shape, np.float32) for entry in table.values()
    }
    bundles.check(dict(state), expected, where)
    shapes = flatten(_shapes(config))
    return unflatten(
        {name: state[entry.name].reshape(shapes[name].shape) for name, entry in table.items()}
    )


def to_official(params: Params, config: Config) -> Params:
    """Returns ``{"params": tree}`` as the public code reads it: the inverse of `from_official`."""
    flat, table = flatten(params), entries(config)
    tree = {
        entry.name: np.asarray(flat[name]).reshape(entry.shape) for name, entry in table.items()
    }
    return {"params": unflatten(tree)}


def read_state(source: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a msgpack file of Flax by name ("encoder/Conv_0/kernel"), float32.

    Nothing in the file is executed.

    Raises:
        UserError: the file is absent, unreadable, of another format or cut short, or it holds
            something else than ``params`` of floating-point arrays.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    try:
        content = restore_msgpack(source.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source}: not a whole msgpack file of Flax (others, pickles among them, are not"
            f" read): {error}"
        ) from error
    params = content.get("params") if isinstance(content, dict) else None
    if not isinstance(params, dict) or len(content) > 1:
        keys = sorted(map(str, content))[:3] if isinstance(content, dict) else []
        found = ", ".join(keys) or type(content).__name__
        raise UserError(f"{source}: expected a checkpoint with params alone, found {found}")
    leaves = dict(_leaves(params))
    other = [name for name, leaf in leaves.items() if not _floating(leaf)]
    if other:
        named = ", ".join(other[:3])
        raise UserError(
            f"{source}: expected arrays of floating-point numbers, found others: {named}"
        )
    return {name: leaf.astype(np.float32, copy=False) for name, leaf in leaves.items()}


def convert(
    tokenizer: Path,
    transformer: Path,
    target: Path,
    *,
    method: str = "sr_maskgit_inpainting",
    sizes: Sizes | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the bundle of a released tokenizer and transformer.

    Args:
        tokenizer: ``tokenizer_imagenet512_checkpoint``, or the one of 256.
        transformer: ``maskgit_imagenet512_checkpoint``, or one fine-tuned from it.
        target: the bundle, ``.safetensors``; float32.
        method: what the bundle is for. The released transformer is a prior of HR images, which
            inpainting uses as it is; token correction needs one fine-tuned for it.
        sizes: of the networks; None: those of the 512×512 files (`published`).
        overwrite: replace an existing target.

    Returns:
        ``{"parameters": total, "groups": {group: parameters}}``.

    Raises:
        UserError: as `read_state` and `from_official`; `method` is not registered or has other
            networks; or the target exists or cannot be written.
    """
    check_target(target, overwrite)
    sizes = sizes or Sizes()
    # Before the files, which are of 0.9 GB.
    built = _build(method, sizes)
    sources = {"tokenizer": tokenizer, "transformer": transformer}
    params = {
        group: from_official(read_state(source), getattr(sizes, group), str(source))
        for group, source in sources.items()
    }
    bundles.check(flatten(params), built.shapes(), f"convert: {built.name}")
    training: dict[str, Any] = {"source": "converted from google-research/maskgit"}
    training |= {group: origin(source) for group, source in sources.items()}
    return write_bundle(target, built, params, licence="Apache-2.0", training=training)


def _build(name: str, sizes: Sizes) -> Method:
    """Returns the registered method with networks of ``sizes``.

    Raises:
        UserError: there is none of that name, or its configuration has no such networks.
    """
    side = math.isqrt(sizes.transformer.positions - 1) * sizes.tokenizer.factor // 2
    # Without a class in front, as the public correction and inpainting run these weights.
    decoding = {"class_token": False, "overlap": side // 4}
    try:
        return registry.build(name, dataclasses.asdict(sizes) | decoding)
    except ValueError as error:
        raise UserError(f"convert: {error}") from error


def _grid(positions: int) -> str:
    side = math.isqrt(max(positions - 1, 0))
    grid = f"a {side}x{side} grid, " if side**2 == positions - 1 else ""
    return f"{grid}{positions} positions"


def _leaves(tree: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    # Not `flatten`: keys of a foreign file may be of any type.
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
