"""Starts a larger tokenizer from the weights of a smaller one, without changing what it does.

    python -m launch.grow --bundle realsrt-nano --config configs/realsrt.py:small \\
        --output W/grown.safetensors
    python -m launch.train --config configs/realsrt.py:small,stage=tokenizer --workdir W \\
        --config.init W/grown.safetensors --config.data.root PHOTOS

New channels of a convolution start with fresh weights that nothing reads yet, new residual blocks
with a second convolution of zeros, new entries of the code vectors with zeros (Net2Net, Chen et
al., ICLR 2016, gives the idea). So training goes on from the old loss instead of from noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from launch import train
from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.inference import models
from maskgit_sr.methods import registry
from maskgit_sr.models.vqgan import VQGANConfig

_BUNDLE = flags.DEFINE_string("bundle", None, "The smaller model: a shipped name or a file.")
_OUTPUT = flags.DEFINE_string("output", None, "The bundle to write: tokenizer and codebook.")


def check(old: VQGANConfig, new: VQGANConfig) -> None:
    """Whether a tokenizer can grow into another.

    Raises:
        UserError: something that would change the function, or become smaller.
    """
    for name in ("patch", "codes", "narrow_up"):
        if getattr(old, name) != getattr(new, name):
            raise UserError(
                f"{name}: expected {getattr(old, name)} as before, found {getattr(new, name)}"
            )
    if old.groups or new.groups:
        raise UserError(
            "groups: a group norm over more channels is another function; only 0 can grow"
        )
    if len(old.channels) != len(new.channels):
        raise UserError(
            f"channels: expected {len(old.channels)} levels as before, found {len(new.channels)}"
        )
    sizes = {"channels": zip(old.channels, new.channels, strict=True)}
    for name in ("encoder_blocks", "decoder_blocks", "encoder_bottom", "decoder_bottom"):
        sizes[name] = zip((getattr(old, name),), (getattr(new, name),), strict=True)
    for level, (first, second) in enumerate(itertools.pairwise(old.channels)):
        if first != second and new.channels[level] == new.channels[level + 1]:
            raise UserError(f"channels: expected two widths at levels {level} and {level + 1}")
    sizes["code_width"] = zip((old.code_width,), (new.code_width,), strict=True)
    for name, pairs in sizes.items():
        for before, after in pairs:
            if after < before:
                raise UserError(f"{name}: expected at least {before}, found {after}")


def grow(old: Params, fresh: Params, before: VQGANConfig, after: VQGANConfig) -> Params:
    """The larger tokenizer and codebook that do what the smaller ones do.

    Args:
        old: groups ``tokenizer`` and ``codebook`` of ``before``.
        fresh: the same of ``after``, just initialised.
    """
    small, large = old["tokenizer"], fresh["tokenizer"]
    grown: Params = {}
    for part, keys in (("encoder", _encoder_layers), ("decoder", _decoder_layers)):
        places = {key: str(index) for index, key in enumerate(keys(before))}
        layers = {}
        for index, key in enumerate(keys(after)):
            layer = large[part]["layers"][str(index)]
            if key in places:
                layers[str(index)] = _widen(small[part]["layers"][places[key]], layer)
            else:
                zero = jax.tree.map(jnp.zeros_like, layer["conv2"])
                layers[str(index)] = layer | {"conv2": zero}
        ends = {n: _widen(small[part][n], large[part][n]) for n in ("conv_in", "conv_out")}
        grown[part] = {**ends, "layers": layers}
    outputs = small["quant_conv"]["kernel"].shape[-1]
    quant = _widen(small["quant_conv"], large["quant_conv"])
    grown["quant_conv"] = jax.tree.map(lambda x: x.at[..., outputs:].set(0), quant)
    grown["post_quant_conv"] = _widen(small["post_quant_conv"], large["post_quant_conv"])
    embedding = old["codebook"]["embedding"]
    wider = ((0, 0), (0, after.code_width - embedding.shape[1]))
    return {"tokenizer": grown, "codebook": {"embedding": jnp.pad(embedding, wider)}}


def _widen(small: Any, large: Any) -> Any:
    """Kernels [..., C, D] and biases [D] of one layer in the leading corner of larger ones."""
    if isinstance(large, dict):
        if "shortcut" in large and "shortcut" not in small:  # the two widths were equal
            width = small["conv1"]["kernel"].shape[-1]
            same = {"kernel": jnp.eye(width)[None, None], "bias": jnp.zeros(width)}
            small = small | {"shortcut": same}
        return {name: _widen(small[name], large[name]) for name in large}
    small, outputs = jnp.asarray(small, jnp.float32), small.shape[-1]
    if small.ndim > 1:  # what the old outputs do not read
        large = large.at[..., small.shape[-2] :, :outputs].set(0)
        return large.at[..., : small.shape[-2], :outputs].set(small)
    return large.at[:outputs].set(small)


def _encoder_layers(config: VQGANConfig) -> Iterator[tuple[str, int, int]]:
    """What stands at each place of `maskgit_sr.models.vqgan.Encoder`'s layers."""
    for level in range(len(config.channels)):
        yield from (("block", level, index) for index in range(config.encoder_blocks))
        if level < len(config.channels) - 1:
            yield "resample", level, 0
    yield from (("bottom", 0, index) for index in range(config.encoder_bottom))


def _decoder_layers(config: VQGANConfig) -> Iterator[tuple[str, int, int]]:
    """What stands at each place of `maskgit_sr.models.vqgan.Decoder`'s layers."""
    yield from (("bottom", 0, index) for index in range(config.decoder_bottom))
    for level in reversed(range(len(config.channels))):
        yield from (("block", level, index) for index in range(config.decoder_blocks))
        if level > 0:
            yield "resample", level, 0


def main(argv: list[str]) -> None:
    """Command-line entry; a user's mistake is one line and exit code 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    with train.one_line("launch.grow"):
        config = flags.FLAGS.config
        target = registry.build(config.method, config.model.to_dict())
        path = models.resolve(_BUNDLE.value)
        params, head = bundles.read(path)
        source = registry.build(head.method, head.config)
        before, after = (getattr(m.config, "tokenizer", None) for m in (source, target))
        if before is None or after is None:
            raise UserError(f"{config.method}: has no tokenizer to grow")
        check(before, after)
        fresh, _ = target.init(jax.random.key(config.seed), ("tokenizer", "codebook"))
        grown = jax.tree.map(np.asarray, grow(params, fresh, before, after))
        about = {"grown_from": path.name, **head.training}
        bundles.write(
            _OUTPUT.value,
            grown,
            bundles.Metadata(target.name, target.describe(), target.scale, head.licence, about),
        )
        print(f"launch.grow: {_OUTPUT.value}: tokenizer and codebook of {path.name}, larger")


if __name__ == "__main__":
    flags.mark_flags_as_required(["bundle", "config", "output"])
    app.run(main, flags_parser=lambda argv: train.parse_flags(argv, "launch.grow"))
