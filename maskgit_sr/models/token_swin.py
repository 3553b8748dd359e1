"""ITER's token networks: distortion removal E_l, refinement φ_r and evaluation φ_e."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maskgit_sr.arrays import Image, TokenGrid
from maskgit_sr.models.fields import Count, Range, Width
from maskgit_sr.models.layers import Feature, ResidualBlock, conv, make_norm, run_layer
from maskgit_sr.models.swin import SwinConfig, SwinStack

GridMask = Bool[Array, "B h w"]
GridLogits = Float[Array, "B h w K"]

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)


@dataclasses.dataclass(frozen=True)
class RemovalConfig:
    """Shape of E_l. The defaults are the published ×4 network (4.1 M parameters).

    Attributes:
        stem: width of the first convolution; doubled by each downsampling.
        width: channels that the attention groups work on.
        swin: those groups.
        groups: number of groups of the group norms (0: no norms).
    """

    stem: Width = 64
    width: Width = 128
    swin: SwinConfig = SwinConfig(dim=128, groups=2)
    groups: Count = 32

    def __post_init__(self) -> None:
        """Raises ValueError for a width that ``groups`` does not divide."""
        if self.groups and self.stem * 2 % self.groups:
            raise ValueError(
                f"encoder.groups: expected a divisor of {self.stem * 2}, found {self.groups}"
            )

    @property
    def arrays(self) -> int:
        """Returns the least number of arrays."""
        return self.swin.arrays + 6


class RemovalEncoder(nnx.Module):
    """E_l: LR images [B, H, W, 3] in [0, 1] → float32 logits [B, h, w, K] of HR tokens.

    Args:
        downs: halvings between the LR image and the token grid.
        codes: K.
    """

    def __init__(
        self,
        config: RemovalConfig,
        downs: int,
        codes: int,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        remat: bool = False,
    ):
        self.remat = remat
        block = partial(
            ResidualBlock, groups=config.groups, activation=_leaky, dtype=dtype, rngs=rngs
        )
        width = config.stem
        layers: list[Any] = [conv(3, width, dtype=dtype, rngs=rngs)]
        for _ in range(downs):
            # Symmetric padding, unlike the tokenizer's downsampling.
            layers.append(conv(width, 2 * width, strides=2, padding=1, dtype=dtype, rngs=rngs))
            width *= 2
            layers += [block(width, width), block(width, width)]
        layers.append(conv(width, config.width, 1, dtype=dtype, rngs=rngs))
        self.layers = nnx.List(layers)
        self.swin = SwinStack(config.width, config.swin, dtype=dtype, rngs=rngs, remat=remat)
        # Float32 as all logits: tokens are chosen by small differences.
        self.logits = nnx.Linear(config.width, codes, dtype=jnp.float32, rngs=rngs)

    def __call__(self, lr: Image) -> GridLogits:
        x = lr
        for layer in self.layers:
            x = run_layer(layer, x, remat=self.remat)
        return self.logits(self.swin(x))


@dataclasses.dataclass(frozen=True)
class TokenSwinConfig:
    """Shape of φ_r or φ_e. The defaults are the published ones (26.1 M and 26.0 M parameters).

    Attributes:
        swin: attention groups; their width is that of the embeddings.
        groups: number of groups of the last group norm (0: no norm).
    """

    swin: SwinConfig = SwinConfig(groups=4)
    groups: Annotated[int, Range(0, 1024)] = 32

    def __post_init__(self) -> None:
        """Raises ValueError for a width that ``groups`` does not divide."""
        if self.groups and self.swin.dim % self.groups:
            raise ValueError(f"groups: expected a divisor of {self.swin.dim}, found {self.groups}")

    @property
    def arrays(self) -> int:
        """Returns the number of arrays."""
        return self.swin.arrays + 4 + (2 if self.groups else 0)


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a pass needs of the LR tokens; the same at every step.

    Attributes:
        features: the LR tokens' part of the first layer's output, [B, h, w, D].
        table: that of each current token, [K, D].
        masked: that of the mask, [D]; None where tokens are never masked.
    """

    features: Feature
    table: Float[Array, "K D"]
    masked: Float[Array, " D"] | None


class TokenSwin(nnx.Module):
    """φ_r or φ_e: two grids of tokens [B, h, w] → float32 logits [B, h, w, outputs].

    The published network convolves one-hot tokens of both grids with one matrix, concatenates, and
    convolves again with another. Both are linear, so that their product is a table with a row for
    each token of each grid: looking rows up gives the same sums without one-hot arrays.

    Args:
        outputs: K for φ_r, 2 for φ_e.
        masked: tokens may be masked (φ_r). The LR tokens then come first, else second.
    """

    def __init__(
        self,
        config: TokenSwinConfig,
        codes: int,
        outputs: int,
        masked: bool,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        remat: bool = False,
    ):
        self.codes, self.masked, dim = codes, masked, config.swin.dim
        linear = partial(nnx.Linear, use_bias=False, dtype=jnp.float32, rngs=rngs)
        self.embed = linear(codes + masked, dim)
        self.combine = linear(2 * dim, dim)
        self.swin = SwinStack(dim, config.swin, dtype=dtype, rngs=rngs, remat=remat)
        self.norm_out = make_norm(dim, config.groups)
        self.logits = nnx.Linear(dim, outputs, dtype=jnp.float32, rngs=rngs)

    def condition(self, lr_tokens: TokenGrid, lr_masked: GridMask | None = None) -> Condition:
        """Returns the part of the LR tokens, to be computed once.

        Args:
            lr_masked: the LR tokens that were not kept at the start. They are marked, not hidden;
                for φ_r only.
        """
        embed, combine = self.embed.kernel[...], self.combine.kernel[...]
        # Tables at full precision: what was a sum of one-hot products must not lose digits.
        first, second = (
            jnp.matmul(embed, half, precision="highest") for half in jnp.split(combine, 2)
        )
        own, other = (first, second) if self.masked else (second, first)
        features = own[: self.codes][lr_tokens]
        if not self.masked:
            return Condition(features, other, None)
        if lr_masked is not None:
            features += jnp.where(lr_masked[..., None], own[self.codes], 0)
        return Condition(features, other[: self.codes], other[self.codes])

    def __call__(
        self, tokens: TokenGrid, condition: Condition, mask: GridMask | None = None
    ) -> GridLogits:
        """Returns the logits; ``mask`` is true where a token is not known."""
        rows = condition.table[tokens]
        if condition.masked is not None and mask is not None:
            rows = jnp.where(mask[..., None], condition.masked, rows)
        x = self.swin(condition.features + rows)
        return self.logits(jax.nn.silu(self.norm_out(x)))
