"""MaskGIT's bidirectional transformer: a post-norm BERT with a tied head.

Source: Chang et al., CVPR 2022, §3.2; google-research/maskgit `maskgit_transformer.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskgit_sr.arrays import TokenLogits, Tokens
from maskgit_sr.models.fields import Range, Width
from maskgit_sr.models.layers import run_layer
from maskgit_sr.models.transformer import Sequence, attend

Rows = Int[Array, "B S"]
"""Rows of the vocabulary, one for each place of a sequence of S = N or 1 + N."""


@dataclasses.dataclass(frozen=True)
class MaskGITTransformerConfig:
    """Shape of the transformer. The defaults are the published 512×512 network (173.0 M).

    The vocabulary's rows are K image tokens, the classes and the mask, in this order.

    Attributes:
        codes: K, image tokens; logits are of these rows alone.
        classes: rows between the image tokens and the mask; 0 for networks without classes.
        positions: rows of the table of positions: 1 + N, the first for the class.
        dim: D, model width.
        depth: number of layers.
        heads: attention heads per layer.
        inner: width inside a layer's MLP.
        dropout: rate on attention weights, on both outputs of a layer and on the embeddings,
            while a key is given; 0.1 when MaskGIT was trained on ImageNet.

    Raises:
        ValueError: heads that do not divide ``dim``.
    """

    codes: Width = 1024
    classes: Annotated[int, Range(0, 16384)] = 1000
    positions: Annotated[int, Range(2, 16385)] = 1025
    dim: Width = 768
    depth: Annotated[int, Range(1, 1024)] = 24
    heads: Width = 16
    inner: Width = 3072
    dropout: Annotated[float, Range(0, 0.99)] = 0.0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(
                f"transformer.heads: expected a divisor of {self.dim}, found {self.heads}"
            )

    @property
    def arrays(self) -> int:
        """Returns the number of arrays."""
        return 16 * self.depth + 9

    @property
    def vocabulary(self) -> int:
        """Returns the number of rows of the table of words."""
        return self.codes + self.classes + 1

    @property
    def mask(self) -> int:
        """Returns the mask's row, the last (the public code's −1)."""
        return self.vocabulary - 1

    @property
    def no_class(self) -> int:
        """Returns the row that stands at position 0 where the class is not known: the mask's.

        The published table has no spare row, and each class row means its class. The mask already
        means "unknown", and it is a vector of its own there: nothing else has position 0, whose
        embedding is added to it and trained with it.
        """
        return self.mask


def prepend(tokens: Tokens, row: int | Int[Array, " B"]) -> Rows:
    """Returns the sequence [B, 1 + N] of a class's row, or ``no_class``, before the tokens."""
    first = jnp.broadcast_to(jnp.asarray(row, tokens.dtype), tokens.shape[:1])
    return jnp.concatenate([first[:, None], tokens], axis=1)


_init = nnx.initializers.truncated_normal(0.02, lower=-2.0, upper=2.0)
Linear = partial(nnx.Linear, kernel_init=_init)
# Float32 whatever the network computes in; the layer that reads the norm casts to its own dtype.
Norm = partial(nnx.LayerNorm, epsilon=1e-12, dtype=jnp.float32)


def _drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    return x if key is None else nnx.Dropout(rate, deterministic=False)(x, rngs=key)


class SelfAttention(nnx.Module):
    """Softmax attention with biases everywhere, scaled by the root of the heads' width."""

    def __init__(self, config: MaskGITTransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = partial(Linear, config.dim, config.dim, dtype=dtype, rngs=rngs)
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()

    def __call__(self, x: Sequence, key: jax.Array | None) -> Sequence:
        shape = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (f(x).reshape(shape) for f in (self.query, self.key, self.value))
        if key is None:
            y = attend(q, k, v, shape[-1] ** -0.5)
        else:
            # Its weights can be dropped, those of fused attention cannot; float32, as its softmax.
            q, k, v = (part.astype(jnp.float32) for part in (q, k, v))
            y = nnx.dot_product_attention(q, k, v, dropout_rng=key, dropout_rate=self.dropout)
        return self.out(y.reshape(x.shape))


class PostNormLayer(nnx.Module):
    """x = LN(x + attention(x)), then x = LN(x + MLP(x)) with tanh GELU."""

    def __init__(self, config: MaskGITTransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.dropout = config.dropout
        self.attention = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.norm_attention = Norm(config.dim, rngs=rngs)
        self.up = linear(config.dim, config.inner)
        self.down = linear(config.inner, config.dim)
        self.norm_mlp = Norm(config.dim, rngs=rngs)

    def __call__(self, x: Sequence, key: jax.Array | None) -> Sequence:
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        y = _drop(self.attention(x, keys[0]), self.dropout, keys[1])
        x = self.norm_attention(x + y.astype(x.dtype))
        y = self.down(jax.nn.gelu(self.up(x), approximate=True))
        return self.norm_mlp(x + _drop(y, self.dropout, keys[2]).astype(x.dtype))


class Head(nnx.Module):
    """Dense – tanh GELU – LN, times the rows of the words, plus a bias for each row."""

    def __init__(self, config: MaskGITTransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.dense = Linear(config.dim, config.dim, dtype=dtype, rngs=rngs)
        self.norm = Norm(config.dim, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((config.vocabulary,), jnp.float32))

    def __call__(self, x: Sequence, words: Float[Array, "K D"]) -> TokenLogits:
        x = self.norm(jax.nn.gelu(self.dense(x), approximate=True))
        # Float32 at full precision on accelerators too: tokens are chosen by small differences.
        logits = jnp.matmul(x, words.T, precision="highest")
        return logits + self.bias[: words.shape[0]][None, None]


class MaskGITTransformer(nnx.Module):
    """Transformer over the rows of a vocabulary; every place attends to all of its sequence."""

    def __init__(
        self, config: MaskGITTransformerConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        embed = partial(nnx.Embed, features=config.dim, embedding_init=_init, rngs=rngs)
        self.config, self.remat = config, remat
        self.words, self.positions = embed(config.vocabulary), embed(config.positions)
        self.norm_in = Norm(config.dim, rngs=rngs)
        self.layers = nnx.List(
            [PostNormLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.depth)]
        )
        self.head = Head(config, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        rows: Rows,
        positions: Int[Array, " S"] | None = None,
        *,
        added: Sequence | None = None,
        key: jax.Array | None = None,
    ) -> TokenLogits:
        """Returns float32 logits [B, S, K] over the image tokens, a class's place included.

        Args:
            rows: sequence [B, S] of rows of the vocabulary (`prepend`, ``config.mask``).
            positions: rows [S] of the table of positions; None: 0 … S − 1. Without a class in
                front, 1 … N are those that the tokens were trained at; the public correction and
                inpainting use 0 … N − 1, which shifts them by one.
            added: [B, S, D], added to the embeddings before their norm, such as `words` of LR
                tokens where ``rows`` has the mask; None: nothing.
            key: of dropout; None, or a rate of 0: no dropout.

        Raises:
            ValueError: the sequence is longer than the table of positions.
        """
        config, length = self.config, rows.shape[1]
        if length > config.positions:
            raise ValueError(f"sequence: expected at most {config.positions} rows, found {length}")
        if positions is None:
            positions = jnp.arange(length)
        keys: list[Any] = [None] * (config.depth + 1)
        if key is not None and config.dropout:
            keys = list(jax.random.split(key, config.depth + 1))
        x = self.words(rows) + self.positions(positions)[None]
        if added is not None:
            x = x + added
        x = _drop(self.norm_in(x), config.dropout, keys[0])
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            x = run_layer(layer, x, layer_key, remat=self.remat)
        # Sliced before the product: the rows of classes and mask are never predicted.
        return self.head(x, self.words.embedding[: config.codes])
