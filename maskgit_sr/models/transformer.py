"""Bidirectional token transformer, one class for generator and critic."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import TokenLogits, TokenMask
from maskgit_sr.models.fields import Count, Factor, Side, Width
from maskgit_sr.models.layers import run_layer
from maskgit_sr.ops.positions import sincos_2d

Sequence = Float[Array, "B N D"]
Heads = Float[Array, "B N heads head"]


class KeyValue(NamedTuple):
    """Keys (normalised, scaled) and values with the null entry first, [B, 1 + N, heads, head]."""

    key: Heads
    value: Heads


Memory = tuple[KeyValue, ...]
"""One entry for each decoder layer: all that cross-attention needs of the LR image."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer. The defaults are RealSRT's generator (81.0 M parameters).

    Attributes:
        outputs: logits per token: K for a generator, 1 for a critic.
        masked: true if decoder inputs may be masked (generator), false for tokens only (critic).
        dim: D, model width.
        heads: attention heads per block.
        head_dim: width of a head.
        encoder_depth: blocks over the LR tokens.
        decoder_depth: blocks over the HR tokens.
        code_width: C, width of the frozen codebook that embeds the tokens.
        grid: (h, w) of the token grid.
        sharpness: initial query and key scale; 2 makes a fresh network attend to a token's close
            surroundings, 1 (published) to nearly everything alike.
    """

    outputs: Width = 512
    masked: bool = True
    dim: Width = 512
    heads: Width = 8
    head_dim: Width = 64
    encoder_depth: Count = 4
    decoder_depth: Count = 16
    code_width: Width = 256
    grid: tuple[Side, Side] = (32, 32)
    sharpness: Factor = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a width that sine and cosine of two axes do not divide."""
        if self.dim % 4:
            raise ValueError(f"dim: expected a multiple of 4, found {self.dim}")

    @property
    def arrays(self) -> int:
        """Returns the number of arrays."""
        return 11 * self.encoder_depth + 18 * self.decoder_depth + 7 + self.masked


_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Linear = partial(nnx.Linear, use_bias=False, kernel_init=_uniform)
# Float32 whatever the networks compute in; the layer that reads the norm casts to its own dtype.
Norm = partial(nnx.LayerNorm, epsilon=1e-5, use_bias=False, dtype=jnp.float32)


def _unit(x: jax.Array) -> jax.Array:
    # Float32 as all norms; the formula and the 1e-12 are those of PyTorch's F.normalize.
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x, -1, keepdims=True)), 1e-12)


def attend(query: Heads, key: Heads, value: Heads, scale: float) -> Heads:
    """Returns softmax(scale · q·kᵀ)·v for each head, softmax in float32.

    Accelerators get JAX's fused attention. CPUs take one head of one image at a time, whose N×N
    matrix stays in cache, and replace the row maximum by the bound scale·‖q‖·‖k‖ that normalised
    queries and keys make tight. That is exact while e^(−2·bound) is a float32; sharper logits take
    the maximum after all.
    """
    if jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(query, key, value, scale=scale)
    batch, count, heads, width = query.shape
    q, k, v = (
        x.astype(jnp.float32).transpose(0, 2, 1, 3).reshape(batch * heads, -1, width)
        for x in (query, key, value)
    )
    longest = [jnp.max(jnp.sum(jnp.square(x), -1), axis=1) for x in (q, k)]
    bound = scale * jnp.sqrt(longest[0] * longest[1])
    # e^(−2·40) = 2e-35 is still a normal float32; those end at 1e-38.
    tight = jnp.all(bound <= 40.0)

    def head(args: tuple[jax.Array, ...]) -> jax.Array:
        q, k, v, bound = args
        logits = (q * scale) @ k.T
        shift = jax.lax.cond(
            tight,
            lambda: jnp.full((count, 1), bound),
            lambda: jnp.max(logits, axis=-1, keepdims=True),
        )
        # The shift cancels in the quotient, so it has no gradient.
        weights = jnp.exp(logits - jax.lax.stop_gradient(shift))
        return (weights @ v) / jnp.sum(weights, axis=-1, keepdims=True)

    out = jax.lax.map(head, (q, k, v, bound)).reshape(batch, heads, count, width)
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


class Attention(nnx.Module):
    """Cosine attention with learned per-channel scales, logits × 8 and one learned null entry."""

    def __init__(self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        inner = config.heads * config.head_dim
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.heads, self.head_dim, self.dtype = config.heads, config.head_dim, dtype
        self.norm = Norm(config.dim, rngs=rngs)
        self.null = nnx.Param(
            nnx.initializers.normal(1.0)(
                rngs.params(), (2, config.heads, config.head_dim), jnp.float32
            )
        )
        self.query = linear(config.dim, inner)
        self.key_value = linear(config.dim, 2 * inner)
        # Keys start as the queries do, so that attention starts out looking at its own position;
        # finding that out costs a small network its first thousand steps.
        self.key_value.kernel[...] = jnp.concatenate(
            [self.query.kernel[...], self.key_value.kernel[:, inner:]], axis=1
        )
        scale = jnp.full((config.head_dim,), config.sharpness, jnp.float32)
        self.query_scale, self.key_scale = nnx.Param(scale), nnx.Param(scale)
        self.out = linear(inner, config.dim)

    def _split(self, x: jax.Array) -> Heads:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)

    def key_values(self, context: Sequence) -> KeyValue:
        """Returns keys and values of a context (already normed), null entry included."""
        key, value = map(self._split, jnp.split(self.key_value(context), 2, axis=-1))
        shape = (context.shape[0], 1, self.heads, self.head_dim)
        null_key, null_value = (
            jnp.broadcast_to(n, shape).astype(key.dtype) for n in self.null[...]
        )
        key = jnp.concatenate([null_key, key], axis=1)
        # Rounded to the compute dtype only after the norm.
        key = (_unit(key) * self.key_scale[None, None, None]).astype(self.dtype)
        return KeyValue(key, jnp.concatenate([null_value, value], axis=1))

    def __call__(self, x: Sequence, memory: KeyValue | None = None) -> Sequence:
        """Attends to ``x`` itself, or to another context whose keys and values ``memory`` holds."""
        x = self.norm(x)
        query = _unit(self._split(self.query(x))) * self.query_scale[None, None, None]
        key, value = self.key_values(x) if memory is None else memory
        return self.out(attend(query.astype(self.dtype), key, value, 8.0).reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """Norm – linear – GEGLU – norm – linear; inner width ⌊D·8/3⌋."""

    def __init__(self, dim: int, *, dtype: Any, rngs: nnx.Rngs):
        inner = int(dim * 4 * 2 / 3)
        self.norm_in = Norm(dim, rngs=rngs)
        self.up = Linear(dim, 2 * inner, dtype=dtype, rngs=rngs)
        self.norm_inner = Norm(inner, rngs=rngs)
        self.down = Linear(inner, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Sequence) -> Sequence:
        first, second = jnp.split(self.up(self.norm_in(x)), 2, axis=-1)
        # Second half times GELU of the first, as in the public code (docs/parity.md).
        return self.down(self.norm_inner(second * jax.nn.gelu(first, approximate=False)))


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward with residuals."""

    def __init__(self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config.dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Sequence) -> Sequence:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention to the LR memory and feed-forward with residuals."""

    def __init__(self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.cross_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config.dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Sequence, memory: KeyValue) -> Sequence:
        x = x + self.attention(x)
        x = x + self.cross_attention(x, memory)
        return x + self.feed_forward(x)


class TokenTransformer(nnx.Module):
    """Encoder of LR tokens, run once, and decoder of HR tokens, run at every decoding step."""

    def __init__(
        self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.config, self.dtype, self.remat = config, dtype, remat
        if config.masked:
            init = nnx.initializers.normal(0.02)
            self.mask_token = nnx.Param(init(rngs.params(), (config.dim,), jnp.float32))
        # Inputs are code vectors, not token indices, so that the codebook is stored once; the
        # released file has a copy in each transformer (docs/parity.md).
        self.encoder_in = linear(config.code_width, config.dim, use_bias=True)
        self.encoder = nnx.List(
            [EncoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.encoder_depth)]
        )
        self.encoder_norm = Norm(config.dim, rngs=rngs)
        self.decoder_in = linear(config.code_width, config.dim, use_bias=True)
        self.decoder = nnx.List(
            [DecoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.decoder_depth)]
        )
        self.decoder_norm = Norm(config.dim, rngs=rngs)
        # Float32 at full precision on accelerators too: tokens are chosen by small differences.
        self.logits = Linear(
            config.dim, config.outputs, dtype=jnp.float32, precision="highest", rngs=rngs
        )

    def _positions(self) -> jax.Array:
        # Computed, so that bundles hold no tables; conversion checks and drops the released ones.
        return jnp.asarray(sincos_2d(*self.config.grid, self.config.dim), self.dtype)

    def encode(self, lr_vectors: Float[Array, "B N C"]) -> Memory:
        """Returns each decoder layer's keys and values of the LR tokens, given as code vectors."""
        x = self.encoder_in(lr_vectors) + self._positions()[None]
        for layer in self.encoder:
            x = run_layer(layer, x, remat=self.remat)
        x = self.encoder_norm(x)
        # Keys and values instead of x: decoding reads them in every step, and they never change.
        return tuple(layer.cross_attention.key_values(x) for layer in self.decoder)

    def decode(
        self, vectors: Float[Array, "B N C"], mask: TokenMask | None, memory: Memory
    ) -> TokenLogits:
        """Returns float32 logits [B, N, outputs] of the HR tokens, given as code vectors.

        Where ``mask`` is true the learned mask vector stands in for the token, whatever it was.
        """
        x = self.decoder_in(vectors)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[None, None].astype(x.dtype), x)
        x = x + self._positions()[None]
        for layer, kv in zip(self.decoder, memory, strict=True):
            x = run_layer(layer, x, kv, remat=self.remat)
        return self.logits(self.decoder_norm(x))
