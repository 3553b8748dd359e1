"""Windowed self-attention on feature maps: shifted windows with a gated MLP, as ITER has them.

Sources: Liu et al., ICCV 2021 (Swin Transformer), Liang et al. 2021 (SwinIR); the gate on the MLP
is that of ITER's released networks and in no paper.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.models.fields import Range, Width
from maskgit_sr.models.layers import Feature, conv, run_layer

_MASKED = -100.0
"""Added to the logits of pairs that the shift brought together; the released networks' value."""


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Shape of a stack of windowed-attention groups.

    Attributes:
        dim: S, model width.
        groups: groups of blocks, each followed by a convolution and its skip connection.
        blocks: blocks of a group; every second one works on shifted windows.
        heads: attention heads.
        window: side of a window, in tokens; grids must be multiples of it.
        ratio: hidden width of the MLP over ``dim``.
        squeeze: hidden width over the gate's inner width.

    Raises:
        ValueError: widths that do not divide.
    """

    dim: Width = 256
    groups: Annotated[int, Range(1, 64)] = 1
    blocks: Annotated[int, Range(1, 64)] = 6
    heads: Width = 8
    window: Annotated[int, Range(1, 64)] = 8
    ratio: Annotated[int, Range(1, 64)] = 4
    squeeze: Annotated[int, Range(1, 1024)] = 16

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"swin.heads: expected a divisor of {self.dim}, found {self.heads}")
        if self.dim * self.ratio % self.squeeze:
            raise ValueError(
                f"swin.squeeze: expected a divisor of {self.dim * self.ratio}, found {self.squeeze}"
            )

    @property
    def arrays(self) -> int:
        """Returns the number of arrays of a stack."""
        return self.groups * (17 * self.blocks + 2) + 4


Linear = partial(
    nnx.Linear, kernel_init=nnx.initializers.truncated_normal(0.02, lower=-2.0, upper=2.0)
)
# Float32 whatever the network computes in; the layer that reads the norm casts to its own dtype.
Norm = partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32)


def bias_index(window: int) -> np.ndarray:
    """Returns each token pair's row of the bias table, [n, n]; n = window² tokens."""
    row, column = (x.reshape(-1) for x in np.indices((window, window)))
    down, right = (x[:, None] - x[None, :] + window - 1 for x in (row, column))
    return np.asarray(down * (2 * window - 1) + right)


def shift_mask(height: int, width: int, window: int) -> np.ndarray:
    """Returns the logits' offsets [windows, n, n] for a map shifted by half a window.

    Windows at the bottom and at the right hold tokens of both borders; those must not see each
    other.
    """

    def region(length: int) -> np.ndarray:
        place = np.arange(length)
        return (place >= length - window).astype(int) + (place >= length - window // 2)

    labels = 3 * region(height)[:, None] + region(width)[None, :]
    parts = labels.reshape(height // window, window, width // window, window).swapaxes(1, 2)
    flat = parts.reshape(-1, window * window)
    return np.where(flat[:, :, None] == flat[:, None, :], 0.0, _MASKED).astype(np.float32)


def to_windows(x: Feature, window: int) -> Float[Array, "M n C"]:
    """Returns the B·(h/window)·(w/window) windows of a map [B, h, w, C] in raster order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return x.reshape(-1, window * window, c)


def from_windows(windows: Float[Array, "M n C"], shape: tuple[int, ...], window: int) -> Feature:
    """Returns the map of ``shape`` [B, h, w, C] that `to_windows` took apart."""
    b, h, w, c = shape
    x = windows.reshape(b, h // window, w // window, window, window, c).swapaxes(2, 3)
    return x.reshape(shape)


class WindowAttention(nnx.Module):
    """Softmax attention within windows, with a learned bias for every relative position."""

    def __init__(self, config: SwinConfig, shifted: bool, *, dtype: Any, rngs: nnx.Rngs):
        self.config, self.shifted = config, shifted
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.qkv = linear(config.dim, 3 * config.dim)
        self.out = linear(config.dim, config.dim)
        init = nnx.initializers.truncated_normal(0.02, lower=-2.0, upper=2.0)
        shape = ((2 * config.window - 1) ** 2, config.heads)
        self.bias = nnx.Param(init(rngs.params(), shape, jnp.float32))

    def __call__(self, x: Feature) -> Feature:
        window, heads = self.config.window, self.config.heads
        shift = window // 2 if self.shifted else 0
        shifted = jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x
        parts = to_windows(self.qkv(shifted), window)
        count, n, _ = parts.shape
        q, k, v = jnp.unstack(parts.reshape(count, n, 3, heads, -1), axis=2)
        logits = jnp.einsum("mqhd,mkhd->mhqk", q * q.shape[-1] ** -0.5, k)
        # Softmax in float32 whatever the products are computed in.
        bias = self.bias[...][bias_index(window).reshape(-1)].reshape(n, n, heads)
        logits = logits.astype(jnp.float32) + bias.transpose(2, 0, 1)[None]
        if shift:
            mask = jnp.asarray(shift_mask(x.shape[1], x.shape[2], window))
            grouped = logits.reshape(x.shape[0], -1, heads, n, n) + mask[None, :, None]
            logits = grouped.reshape(logits.shape)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        y = jnp.einsum("mhqk,mkhd->mqhd", weights, v).reshape(count, n, -1)
        y = from_windows(self.out(y), x.shape, window)
        return jnp.roll(y, (shift, shift), (1, 2)) if shift else y


class GatedMLP(nnx.Module):
    """Linear – exact GELU – gate – linear; the gate sees the hidden units' means over the image.

    By those means a token depends on the whole image, or on the whole window of it that the
    network is given.
    """

    def __init__(self, config: SwinConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        hidden = config.dim * config.ratio
        self.up = linear(config.dim, hidden)
        self.squeeze = linear(hidden, hidden // config.squeeze)
        self.excite = linear(hidden // config.squeeze, hidden)
        self.down = linear(hidden, config.dim)

    def __call__(self, x: Feature) -> Feature:
        x = jax.nn.gelu(self.up(x), approximate=False)
        # Float32: bfloat16 would lose the mean of thousands of tokens.
        mean = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        gate = jax.nn.sigmoid(self.excite(jax.nn.silu(self.squeeze(mean))))
        return self.down(x * gate)


class SwinBlock(nnx.Module):
    """Pre-norm block: x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, config: SwinConfig, shifted: bool, *, dtype: Any, rngs: nnx.Rngs):
        self.norm1 = Norm(config.dim, rngs=rngs)
        self.attention = WindowAttention(config, shifted, dtype=dtype, rngs=rngs)
        self.norm2 = Norm(config.dim, rngs=rngs)
        self.mlp = GatedMLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Feature) -> Feature:
        x = x + self.attention(self.norm1(x)).astype(x.dtype)
        return x + self.mlp(self.norm2(x)).astype(x.dtype)


class SwinGroup(nnx.Module):
    """Blocks on plain and shifted windows in turn, then conv3, plus the input."""

    def __init__(self, config: SwinConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        self.remat = remat
        self.blocks = nnx.List(
            [SwinBlock(config, i % 2 == 1, dtype=dtype, rngs=rngs) for i in range(config.blocks)]
        )
        self.conv = conv(config.dim, config.dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Feature) -> Feature:
        y = x
        for block in self.blocks:
            y = run_layer(block, y, remat=self.remat)
        return x + self.conv(y)


class SwinStack(nnx.Module):
    """conv3 to the model width, groups, conv3 back, plus the input [B, h, w, channels].

    Both sides of the map must be multiples of the window.
    """

    def __init__(
        self, channels: int, config: SwinConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        self.conv_in = conv(channels, config.dim, dtype=dtype, rngs=rngs)
        self.groups = nnx.List(
            [SwinGroup(config, dtype=dtype, rngs=rngs, remat=remat) for _ in range(config.groups)]
        )
        self.conv_out = conv(config.dim, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Feature) -> Feature:
        y = self.conv_in(x)
        for group in self.groups:
            y = group(y)
        return x + self.conv_out(y)
