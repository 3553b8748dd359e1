"""Resampling within SRMAP's networks: binomial filter, (un)shuffling, bilinear by a factor of 2.

All take features [B, h, w, C]. Filters are weighted sums of shifted slices, which compilers fuse;
as convolutions with one kernel for all channels they take several times as long on CPUs.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Feature = Float[Array, "B h w C"]


def pad_reflect(x: Feature) -> Feature:
    """Pads all four sides by 1 by reflection, without repeating the edge; a side of 1 is repeated.

    As `jnp.pad` does in three times as many operations, which compile as much longer.
    """
    for axis in (1, 2):
        last = x.shape[axis] - 1
        inner = min(1, last)
        before = jax.lax.slice_in_dim(x, inner, inner + 1, axis=axis)
        after = jax.lax.slice_in_dim(x, last - inner, last - inner + 1, axis=axis)
        x = jnp.concatenate([before, x, after], axis)
    return x


def _taps(x: Feature, axis: int, weights: tuple[float, ...], stride: int = 1) -> Feature:
    """Returns the correlation of an axis with a short filter, without padding."""
    last = x.shape[axis] - len(weights) + 1
    parts = (
        weight * jax.lax.slice_in_dim(x, tap, last + tap, stride, axis)
        for tap, weight in enumerate(weights)
    )
    # Python floats are weakly typed, so the features keep their dtype.
    return functools.reduce(operator.add, parts)


def blur(x: Feature) -> Feature:
    """Returns the features under the filter [1 2 1]⊗[1 2 1]/16, reflected at the border."""
    x = pad_reflect(x)
    for axis in (1, 2):
        x = _taps(x, axis, (0.25, 0.5, 0.25))
    return x


def pixel_shuffle(x: Feature) -> Feature:
    """Returns [B, 2h, 2w, C/4]; channels of ``x`` are ordered (channel, row, column).

    As PyTorch's; `ops.resize.depth_to_space` has the channel last.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def pixel_unshuffle(x: Feature) -> Feature:
    """Returns [B, h/2, w/2, 4C], the inverse of :func:`pixel_shuffle`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, h // 2, w // 2, 4 * c)


@jax.custom_vjp
def enlarge_bilinear(x: Feature) -> Feature:
    """Returns [B, 2h, 2w, C] by linear interpolation, half-pixel centres, the edge repeated."""
    for axis in (1, 2):
        padded = _pad_edge(x, axis)
        length, shape = x.shape[axis], list(x.shape)
        shape[axis] *= 2
        before, after = _taps(padded, axis, (0.25, 0.75)), _taps(padded, axis, (0.75, 0.25))
        pair = (
            jax.lax.slice_in_dim(before, 0, length, axis=axis),
            jax.lax.slice_in_dim(after, 1, length + 1, axis=axis),
        )
        x = jnp.stack(pair, axis + 1).reshape(shape)
    return x


def _pad_edge(x: Feature, axis: int) -> Feature:
    pads = [(0, 0)] * 4
    pads[axis] = (1, 1)
    return jnp.pad(x, pads, mode="edge")


def _enlarge_backward(saved: None, grad: Feature) -> tuple[Feature]:
    # XLA's own transpose of slices and stacks takes ten times as long on CPUs.
    for axis in (1, 2):
        grad = _taps(_pad_edge(grad, axis), axis, (0.25, 0.75, 0.75, 0.25), 2)
    return (grad,)


enlarge_bilinear.defvjp(lambda x: (enlarge_bilinear(x), None), _enlarge_backward)


def halve_bilinear(x: Feature) -> Feature:
    """Returns [B, h/2, w/2, C] by antialiased linear interpolation; sides are even.

    The triangle filter [1 3 3 1]/8; at the border its weights within the image are scaled to 1.
    """
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (1, 1)
        n = x.shape[axis] // 2
        weights = np.ones(n)
        weights[0] -= 1 / 8
        weights[-1] -= 1 / 8
        shape = [1] * 4
        shape[axis] = n
        total = jnp.asarray(weights.reshape(shape), x.dtype)
        x = _taps(jnp.pad(x, pads), axis, (0.125, 0.375, 0.375, 0.125), 2) / total
    return x
