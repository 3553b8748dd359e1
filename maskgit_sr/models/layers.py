"""Convolutional blocks shared by the tokenizer, the controlling module and the discriminator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.models import winograd
from maskgit_sr.ops.resize import upsample_nearest

Feature = Float[Array, "B h w C"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def run_layer(layer: Any, *args: Any, remat: bool) -> Any:
    """Returns ``layer(*args)``; with ``remat`` the backward pass recomputes its activations."""
    if not remat:
        return layer(*args)
    # jax.checkpoint differentiates functions of arrays, so the parameters must be arguments.
    graph, state = nnx.split(layer)
    return jax.checkpoint(lambda state, *args: nnx.merge(graph, state)(*args))(state, *args)


def _convolve(x: Feature, kernel: jax.Array) -> Feature:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def conv3x3(x: Feature, kernel: Float[Array, "3 3 C D"]) -> Feature:
    """Stride-1 3×3 convolution, zero padding 1, with a weight gradient made for CPUs.

    XLA's CPU weight gradient runs at a quarter of the speed of its forward convolution. The same
    sum taken over bands of rows, as [D, positions]·[positions, 9·C] products that stay in cache, is
    2.5–3× faster there.
    """
    return _convolve(x, kernel)


def _conv3x3_forward(x: Feature, kernel: jax.Array) -> tuple[Feature, tuple[jax.Array, jax.Array]]:
    return conv3x3(x, kernel), (x, kernel)


_POSITIONS = 4608
"""Most positions of a band: 64 channels then take 10 MB of columns; twice as many are slower."""


def _conv3x3_backward(
    saved: tuple[jax.Array, jax.Array], grad: Feature
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # The input's gradient stays XLA's; only the weight's is slow there.
    _, pull = jax.vjp(lambda x: _convolve(x, kernel), x)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return pull(grad)[0], _kernel_gradient(padded, grad, kernel)


def _kernel_gradient(padded: Feature, grad: Feature, kernel: jax.Array) -> jax.Array:
    """Returns the kernel's gradient of a 3×3 convolution whose input is padded already."""
    b, h, w, outputs = grad.shape
    c = padded.shape[-1]
    rows = next(n for n in range(h, 0, -1) if h % n == 0 and (n * w <= _POSITIONS or n == 1))
    bands = h // rows

    def add(total: jax.Array, band: jax.Array) -> tuple[jax.Array, None]:
        image, top = band // bands, band % bands * rows
        source = jax.lax.dynamic_slice(padded, (image, top, 0, 0), (1, rows + 2, w + 2, c))[0]
        pulled = jax.lax.dynamic_slice(grad, (image, top, 0, 0), (1, rows, w, outputs))
        taps = [source[i : i + rows, j : j + w] for i in range(3) for j in range(3)]
        columns = jnp.concatenate(taps, axis=-1).reshape(rows * w, 9 * c)
        # Held apart, because the product would gather its columns anew for every block.
        columns = jax.lax.optimization_barrier(columns)
        return total + pulled.reshape(rows * w, outputs).T @ columns, None

    zero = jnp.zeros((outputs, 9 * c), kernel.dtype)
    total, _ = jax.lax.scan(add, zero, jnp.arange(b * bands))
    return total.T.reshape(kernel.shape)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


@jax.custom_vjp
def _conv3x3_padded(padded: Feature, kernel: Float[Array, "3 3 C D"]) -> Feature:
    return _convolve_padded(padded, kernel)


def _convolve_padded(padded: Feature, kernel: jax.Array) -> Feature:
    if jax.default_backend() == "cpu" and winograd.fits(padded, kernel):
        return winograd.convolve(padded, kernel)
    return jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _conv3x3_padded_forward(
    padded: Feature, kernel: jax.Array
) -> tuple[Feature, tuple[jax.Array, jax.Array]]:
    return _convolve_padded(padded, kernel), (padded, kernel)


def _conv3x3_padded_backward(
    saved: tuple[jax.Array, jax.Array], grad: Feature
) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    # The input's gradient is such a convolution, too: the second derivative that a gradient penalty
    # needs is then made of the same fast parts. XLA's own takes ten times as long.
    wide = jnp.pad(grad, ((0, 0), (2, 2), (2, 2), (0, 0)))
    back = _conv3x3_padded(wide, kernel[::-1, ::-1].swapaxes(2, 3))
    return back, _kernel_gradient(padded, grad, kernel)


_conv3x3_padded.defvjp(_conv3x3_padded_forward, _conv3x3_padded_backward)


def conv3x3_valid(padded: Feature, kernel: Float[Array, "3 3 C D"]) -> Feature:
    """Returns the 3×3 convolution [B, h, w, D] of features [B, h+2, w+2, C] padded by the caller.

    On CPUs its weight gradient is that of `conv3x3`.
    """
    fast = jax.default_backend() == "cpu"
    return _conv3x3_padded(padded, kernel) if fast else _convolve_padded(padded, kernel)


def convolve3x3(x: Feature, kernel: Float[Array, "3 3 C D"]) -> Feature:
    """Returns the stride-1 3×3 convolution with zero padding 1, by the backend's fastest way."""
    return conv3x3(x, kernel) if jax.default_backend() == "cpu" else _convolve(x, kernel)


def _convolve_fast(
    x: Feature, kernel: jax.Array, strides: tuple[int, ...], padding: Any, **options: Any
) -> Feature:
    if kernel.shape[:2] == (3, 3) and strides == (1, 1) and padding == "SAME":
        return convolve3x3(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nnx.Conv:
    """Returns a size×size `nnx.Conv` that takes its weight gradient from `conv3x3` on CPUs.

    Args:
        options: of `nnx.Conv`; its defaults are stride 1, zero padding to the same sides and
            LeCun-normal kernels, which keep the signal's size where no norm restores it.
    """
    return nnx.Conv(inputs, outputs, (size, size), conv_general_dilated=_convolve_fast, **options)


class GroupNorm(nnx.Module):
    """Group norm (Wu & He 2018), statistics in float32, eps 1e-6; `nnx.GroupNorm`'s parameters.

    Replaces `nnx.GroupNorm`, which puts the channels of a group innermost, two or four of them,
    which CPUs do not vectorise: on [4, 128, 128, 64] it takes 25 ms forward and 38 ms with its
    gradient, this 6.5 and 13.6 ms.
    """

    def __init__(self, channels: int, *, groups: int = 32, eps: float = 1e-6):
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Feature) -> Feature:
        b, h, w, c = x.shape
        flat = x.astype(jnp.float32).reshape(b, h * w, c)
        mean = self._over_groups(flat.mean(1))
        # In two passes: E[x²] − E[x]² loses digits in dark or flat parts, where the mean is large.
        variance = self._over_groups(jnp.square(flat - mean[:, None]).mean(1))
        gain = jax.lax.rsqrt(variance + self.eps) * self.scale[None]
        out = flat * gain[:, None] + (self.bias[None] - mean * gain)[:, None]
        return out.reshape(x.shape).astype(x.dtype)

    def _over_groups(self, x: Float[Array, "B C"]) -> Float[Array, "B C"]:
        """Returns each channel's group mean; channels stay innermost, which CPUs vectorise."""
        b, c = x.shape
        return jnp.repeat(x.reshape(b, self.groups, -1).mean(-1), c // self.groups, axis=-1)


def make_norm(channels: int, groups: int) -> Callable[[Feature], Feature]:
    """Returns a group norm, or the identity for ``groups`` 0.

    A group of only two or four channels comes close to instance norm, which wipes out an image's
    absolute colour; narrow networks learn faster without any.
    """
    return GroupNorm(channels, groups=groups) if groups else nnx.identity


class ResidualBlock(nnx.Module):
    """GN – swish – conv3 – GN – swish – conv3 plus the input, through a 1×1 when widths differ.

    Args:
        activation: in place of swish.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int = 32,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.swish,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        make = partial(conv, dtype=dtype, rngs=rngs)
        self.norm1, self.conv1 = make_norm(inputs, groups), make(inputs, outputs)
        self.norm2, self.conv2 = make_norm(outputs, groups), make(outputs, outputs)
        self.shortcut = make(inputs, outputs, 1) if inputs != outputs else None

    def __call__(self, x: Feature) -> Feature:
        y = self.conv1(self.activation(self.norm1(x)))
        y = self.conv2(self.activation(self.norm2(y)))
        return y + (x.astype(y.dtype) if self.shortcut is None else self.shortcut(x))


class AttentionBlock(nnx.Module):
    """GN, single-head self-attention over all positions by 1×1 convolutions, plus the input."""

    def __init__(self, channels: int, *, groups: int = 32, dtype: Any, rngs: nnx.Rngs):
        make = partial(conv, channels, channels, 1, dtype=dtype, rngs=rngs)
        self.norm = make_norm(channels, groups)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def __call__(self, x: Feature) -> Feature:
        b, h, w, c = x.shape
        y = self.norm(x)
        q, k, v = (f(y).reshape(b, h * w, 1, c) for f in (self.query, self.key, self.value))
        y = jax.nn.dot_product_attention(q, k, v, scale=c**-0.5)
        return x + self.out(y.reshape(b, h, w, c))


class Downsample(nnx.Module):
    """Conv3 with stride 2 after one zero row and column at the bottom and right."""

    def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs):
        self.conv = conv(
            channels, channels, strides=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Feature) -> Feature:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbour ×2, then conv3."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Any, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Feature) -> Feature:
        return self.conv(upsample_nearest(x))
