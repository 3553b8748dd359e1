"""Perceptual losses by name."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image, Params, Scalar
from maskgit_sr.errors import UserError
from maskgit_sr.perceptual.distances import Distance, Perceptual, load_lpips, load_vgg19


def perceptual_loss(perceptual: Perceptual, output: Image, target: Image) -> Scalar:
    """Returns the mean distance over the batch, float32, of images [B,H,W,3] in [0,1].

    Under jit, `perceptual` is an argument (it is a pytree), not a closed-over constant. No gradient
    goes into its params.
    """
    params = jax.lax.stop_gradient(perceptual.params)
    return jnp.mean(perceptual.apply(params, output, target))


def random_window(key: jax.Array, shift: int, *images: Image) -> tuple[Image, ...]:
    """Returns one window [B, H−shift, W−shift, 3] of all images [B, H, W, 3], uniformly placed.

    Raises:
        ValueError: nothing would be left.
    """
    if not shift:
        return images
    batch, height, width, channels = images[0].shape
    if shift >= min(height, width):
        raise ValueError(
            f"perceptual_shift: expected less than {min(height, width)}, found {shift}"
        )
    # One place for all: output and target must stay aligned.
    top, left = jax.random.randint(key, (2,), 0, shift + 1)
    size = (batch, height - shift, width - shift, channels)
    return tuple(jax.lax.dynamic_slice(x, (0, top, left, 0), size) for x in images)


def _zero(params: Params, x: Image, y: Image) -> Distance:
    del params, y
    return jnp.zeros(x.shape[:1])


def _mean(
    applies: dict[str, Callable[[Params, Image, Image], Distance]],
    params: Params,
    x: Image,
    y: Image,
) -> Distance:
    distances = [apply(params[name], x, y) for name, apply in applies.items()]
    return jnp.mean(jnp.stack(distances), axis=0)


# A loss takes convolutions at the default precision; scores take "highest" (`load_lpips`).
_LOADERS: dict[str, Callable[[], Perceptual]] = {
    "lpips_squeeze": partial(load_lpips, "squeeze", precision="default"),
    "lpips_alex": partial(load_lpips, "alex", precision="default"),
    "lpips_vgg": partial(load_lpips, "vgg", precision="default"),
    "vgg19": load_vgg19,
    "none": partial(Perceptual, "none", {}, _zero),
}
PERCEPTUAL_LOSSES = tuple(_LOADERS)


def build_perceptual(name: str) -> Perceptual:
    """Returns the distance called `name`; "none" is always 0 and needs no file.

    Names joined by + give the mean of their distances: what one net's strides skip, another sees.

    Raises:
        UserError: an unknown name, or its weights are absent (see `maskgit_sr.assets.find`).
    """
    if "+" in name:
        parts = {part: build_perceptual(part) for part in name.split("+")}
        applies = {part: found.apply for part, found in parts.items()}
        params = {part: found.params for part, found in parts.items()}
        return Perceptual(name, params, partial(_mean, applies))
    if name not in _LOADERS:
        raise UserError(f"perceptual loss {name!r}: expected one of {', '.join(PERCEPTUAL_LOSSES)}")
    return _LOADERS[name]()
