"""MaskGIT's VQGAN and transformer in a method of scale 2: windows, tokens, logits, decoding.

Groups: ``tokenizer`` (its codebook included), ``transformer``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import (
    Execution,
    Image,
    Keys,
    Params,
    TokenGrid,
    TokenLogits,
    TokenMask,
    Tokens,
)
from maskgit_sr.decoding.masked import Canvas, Decoded, decode
from maskgit_sr.decoding.rules import ConfidenceRule
from maskgit_sr.methods.base import (
    Reference,
    Restored,
    RestoreOptions,
    Stage,
    TileSpec,
)
from maskgit_sr.methods.image import ImageMethod
from maskgit_sr.models.control import Control
from maskgit_sr.models.fields import Range
from maskgit_sr.models.functional import Network
from maskgit_sr.models.maskgit_transformer import (
    MaskGITTransformer,
    MaskGITTransformerConfig,
    prepend,
)
from maskgit_sr.models.maskgit_vqgan import MaskGITEncoder, MaskGITVQGAN, MaskGITVQGANConfig
from maskgit_sr.ops.schedules import gamma


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Networks and windows; the defaults are the published ones for 512×512 pixels ("base").

    Attributes:
        tokenizer: shape of the VQGAN.
        transformer: shape of the transformer; its positions set the token grid.
        class_token: a row stands at position 0 before the tokens, which keeps the positions that
            MaskGIT's prior was trained at. The public correction and inpainting have none.
        overlap: LR pixels that neighbouring windows share.
        control: a controlling module, as RealSRT's (its §3.3), steers the decoder by the LR image.
            Beyond the paper, whose results the VQGAN bounds.

    Raises:
        ValueError: codes of the networks differ, or the positions are not those of a square grid
            of whole LR pixels, at most 1,024 of them a side.
    """

    tokenizer: MaskGITVQGANConfig = MaskGITVQGANConfig()
    transformer: MaskGITTransformerConfig = MaskGITTransformerConfig()
    class_token: bool = True
    overlap: Annotated[int, Range(0, 1023)] = 64
    control: bool = False

    def __post_init__(self) -> None:
        if self.transformer.codes != self.tokenizer.codes:
            raise ValueError(
                f"transformer.codes: expected the tokenizer's {self.tokenizer.codes},"
                f" found {self.transformer.codes}"
            )
        side, rest = divmod(self.grid * self.tokenizer.factor, 2)
        if self.grid**2 + 1 != self.transformer.positions or rest or side > 1024:
            raise ValueError(
                "transformer.positions: expected 1 + those of a square grid of windows up to"
                f" 1024 LR pixels, found {self.transformer.positions}"
            )
        self.tile  # raises for an overlap that does not fit  # noqa: B018

    @property
    def grid(self) -> int:
        """Returns the side of the token grid."""
        return math.isqrt(self.transformer.positions - 1)

    @property
    def tile(self) -> TileSpec:
        """Returns the windows: those of one token grid, because positions are learned."""
        side = self.grid * self.tokenizer.factor // 2
        return TileSpec((side,), self.overlap, variance=0.0)


class MaskGITNetworks(ImageMethod):
    """Networks of both methods, and what restoration does with them.

    Images are in [0, 1], as the VQGAN takes and gives them.
    """

    scale = 2
    groups: tuple[str, ...] = ("tokenizer", "transformer")
    # Rounded code vectors, or a rounded encoder, would change which tokens an image gets.
    exact = frozenset({"tokenizer"})
    provides = frozenset({"confidence", "tokens"})
    config_class: Any = MaskGITConfig

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        config, run = self.config, self.run
        self.grid: int = config.grid
        self.mask: int = config.transformer.mask
        self.tokenizer = Network(lambda rngs: MaskGITVQGAN(config.tokenizer, **run, rngs=rngs))
        self.transformer = Network(
            lambda rngs: MaskGITTransformer(config.transformer, **run, rngs=rngs)
        )
        if config.control:
            self.groups = (*self.groups, "control")
            self.control = Network(
                lambda rngs: Control(config.tokenizer, encoder=MaskGITEncoder, **run, rngs=rngs)
            )

    def shapes(self) -> Params:
        """Returns the shapes of the bundle's groups."""
        return {group: getattr(self, group).shapes for group in self.groups}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters of ``groups``; each has a key of its own."""
        known = ("tokenizer", "transformer", "discriminator", "control")
        keys = {group: jax.random.fold_in(key, known.index(group)) for group in groups}
        return {group: getattr(self, group).init(k) for group, k in keys.items()}, {}

    @property
    def references(self) -> tuple[Reference, ...]:
        """Returns the VQGAN alone: of LR, what the transformer starts from; of HR, its ceiling."""
        return (
            Reference("VQGAN of LR", Autoencoder(self, 2), "lr"),
            Reference("VQGAN of HR", Autoencoder(self, 1), "hr"),
        )

    # ------------------------------------------------------------ tokens and images

    def upsample(self, lr: Image) -> Image:
        """Returns the image enlarged as Pillow's bicubic does (to 3e-7), clipped to [0, 1]."""
        b, h, w, c = lr.shape
        shape = (b, self.scale * h, self.scale * w, c)
        # "highest": accelerators round the factors of float32 products otherwise.
        image = jax.image.resize(lr, shape, "cubic", antialias=False, precision="highest")
        return jnp.clip(image, 0, 1)

    def tokenize(self, params: Params, image: Image) -> TokenGrid:
        """Returns the tokens [B, H/f, W/f] of an image [B, H, W, 3]."""
        network = self.tokenizer.bind(params["tokenizer"])
        return network.quantize(network.encode(image))

    def render(self, params: Params, tokens: TokenGrid, upsampled: Image | None = None) -> Image:
        """Returns the image [B, h·f, w·f, 3], not clipped, of tokens [B, h, w].

        Args:
            upsampled: [B, h·f, w·f, 3], the image that steers the decoder; None: none does.
        """
        network = self.tokenizer.bind(params["tokenizer"])
        latent = network.embed(tokens)
        if upsampled is not None:
            latent = self.control.apply(params["control"], lambda m: m(latent, upsampled))
        return network.decode(latent)

    def logits(
        self,
        params: Params,
        tokens: Tokens,
        mask: TokenMask | None = None,
        lr_tokens: Tokens | None = None,
        key: jax.Array | None = None,
    ) -> TokenLogits:
        """Returns the logits [B, N, K] of a whole grid's tokens in raster order.

        Args:
            mask: [B, N], true where the token is not known; None: all are.
            lr_tokens: [B, N]; their embeddings are added where tokens are masked.
            key: of dropout; None: no dropout.
        """
        network = self.transformer.bind(params["transformer"])
        rows = tokens if mask is None else jnp.where(mask, self.mask, tokens)
        added = None
        if lr_tokens is not None and mask is not None:
            added = jnp.where(mask[..., None], network.words(lr_tokens), 0)
        if not self.config.class_token:
            return network(rows, added=added, key=key)
        if added is not None:
            added = jnp.pad(added, ((0, 0), (1, 0), (0, 0)))
        rows = prepend(rows, self.config.transformer.no_class)
        return network(rows, added=added, key=key)[:, 1:]

    def fill(
        self,
        params: Params,
        tokens: Tokens,
        known: TokenMask,
        keys: Keys,
        steps: int,
        lr_tokens: Tokens | None = None,
        **options: Any,
    ) -> Decoded:
        """Returns the tokens with the unknown ones predicted in ``steps`` passes, by confidence.

        Each example's number of masked tokens follows the cosine schedule of its own unknown ones.

        Args:
            lr_tokens: as `logits` takes them.
            options: of `decode`.
        """
        ratios = jnp.arange(1, steps + 1, dtype=jnp.float32) / steps
        unknown = (~known).sum(-1, dtype=jnp.float32)
        counts = jnp.floor(gamma("cosine")(ratios)[None] * unknown[:, None]).astype(jnp.int32)
        start = jnp.zeros(tokens.shape[:1], jnp.int32)
        return decode(
            lambda tokens, mask: self.logits(params, tokens, mask, lr_tokens),
            ConfidenceRule(),
            Canvas(tokens, known, start),
            counts,
            keys,
            **options,
        )


class Autoencoder(MaskGITNetworks):
    """The VQGAN alone, over a method's parameters: an image through its tokens and back.

    Args:
        scale: 2 takes LR windows, enlarged bicubically; 1 takes windows of HR.
    """

    provides = frozenset({"tokens"})
    references: tuple[Reference, ...] = ()
    stages: Mapping[str, Stage] = {}

    def __init__(self, whole: MaskGITNetworks, scale: int):
        super().__init__(whole.config, whole.losses, whole.execution)
        self.name, self.scale = f"{whole.name}/tokenizer", scale
        spec, by = whole.tile, whole.scale // scale
        self.tile = TileSpec((spec.sides[0] * by,), spec.overlap * by, spec.variance)

    def restore(self, params: Params, lr: Image, keys: Keys, options: RestoreOptions) -> Restored:
        """Returns the windows through the tokenizer."""
        tokens = self.tokenize(params, lr if self.scale == 1 else self.upsample(lr))
        return Restored(self.render(params, tokens), tokens=tokens)
