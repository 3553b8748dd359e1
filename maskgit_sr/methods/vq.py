"""Base of methods over a vector-quantised tokenizer: codebook, tokenizer's stage, panels.

Groups: ``tokenizer``, ``codebook``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Keys, Latent, Params, Scalar, TokenGrid, Tokens
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    Restored,
    RestoreOptions,
    Stage,
    TileSpec,
)
from maskgit_sr.methods.image import ImageLossConfig, ImageMethod, Tail, image_loss
from maskgit_sr.models import codebook
from maskgit_sr.models.functional import Network
from maskgit_sr.models.vqgan import VQGAN
from maskgit_sr.ops.resize import upsample_bicubic


@dataclasses.dataclass(frozen=True)
class VQLossConfig(ImageLossConfig):
    """Losses of an image through tokens.

    Attributes:
        commitment: factor of the commitment loss.
    """

    commitment: float = 0.25


class VQMethod(ImageMethod):
    """Base of methods whose images pass through a VQGAN's tokens.

    The configuration has a field ``tokenizer``. Subclasses add their own networks, as attributes
    named like their groups.
    """

    groups: tuple[str, ...] = ("tokenizer", "codebook")
    exact = frozenset({"codebook"})  # a rounded code vector changes which token an image gets
    provides = frozenset({"confidence", "tokens"})
    losses_class: Any = VQLossConfig
    tokenizer_class: Any = VQGAN  # built from the configuration's ``tokenizer``

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        tokenizer = self.config.tokenizer
        self.codes, self.code_width = tokenizer.codes, tokenizer.code_width
        self.factor = tokenizer.factor
        self.tokenizer: Network[Any] = Network(
            lambda rngs: self.tokenizer_class(tokenizer, **self.run, rngs=rngs)
        )

    # ------------------------------------------------------------ parameters

    def shapes(self) -> Params:
        """Returns the shapes of the bundle's groups."""
        embedding = jax.ShapeDtypeStruct((self.codes, self.code_width), jnp.float32)
        networks = {g: getattr(self, g).shapes for g in self.groups if g != "codebook"}
        return networks | {"codebook": {"embedding": embedding}}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters and statistics of ``groups``; each group has its own key."""
        params: Params = {}
        stats: Params = {}
        for group in groups:
            # By its place in the method: stages that start apart give the same parameters as one
            # start of all groups.
            index = (*self.groups, "discriminator").index(group)
            group_key = jax.random.fold_in(key, index)
            params[group], kept = self.fresh(group, group_key)
            if kept is not None:
                stats[group] = kept
        return params, stats

    def fresh(self, group: str, key: jax.Array) -> tuple[Params, Params | None]:
        """Returns fresh parameters of one group, and its statistics if it has any."""
        if group == "codebook":
            book = codebook.init(key, self.codes, self.code_width)
            return {"embedding": book.embedding}, book._asdict()
        return getattr(self, group).init(key), None

    def continued_stats(self, params: Params) -> Params:
        """Returns the codebook's statistics from a trained codebook."""
        if "codebook" not in params:
            return {}
        return {"codebook": codebook.continued(params["codebook"]["embedding"])._asdict()}

    # ------------------------------------------------------------ tokens and images

    def upsample(self, lr: Image) -> Image:
        """Returns the bicubically enlarged image that the networks see."""
        return upsample_bicubic(lr, self.scale)

    def tokenize(self, params: Params, image: Image) -> TokenGrid:
        """Returns the codebook indices [B, H/f, W/f] of an image [B, H, W, 3]."""
        vectors = self.tokenizer.apply(params["tokenizer"], lambda m: m.encode(image))
        return codebook.nearest(vectors, params["codebook"]["embedding"])

    def embed(self, params: Params, tokens: TokenGrid | Tokens) -> Latent:
        """Returns the code vectors [..., C] of codebook indices [...]."""
        return jnp.take(params["codebook"]["embedding"], tokens, axis=0)

    def decode_tokens(self, params: Params, tokens: TokenGrid) -> Image:
        """Returns the image [B, h·f, w·f, 3], not clipped, of tokens [B, h, w]."""
        vectors = self.embed(params, tokens)
        return self.tokenizer.apply(params["tokenizer"], lambda m: m.decode(vectors))

    def training_latent(self, vectors: Latent, quantized: Latent, key: jax.Array) -> Latent:
        """Returns the input of the tokenizer's decoder in training: straight-through codes."""
        return codebook.straight_through(vectors, quantized)

    # ------------------------------------------------------------ training

    def tokenizer_stage(self) -> Stage:
        """Returns the stage that learns the tokenizer and its codebook from HR images alone."""
        return self.image_stage(
            ("tokenizer",),
            partial(tokenizer_loss, self),
            exports=("tokenizer", "codebook"),
            panel=partial(tokenizer_panel, self),
            batch=("hr",),
            fresh_stats=("codebook",),
            finish=keep_codebook,
        )


class Autoencoder(VQMethod):
    """A method's tokenizer alone, over its parameters: HR windows through their tokens and back."""

    scale = 1
    provides = frozenset({"tokens"})
    stages: Mapping[str, Stage] = {}

    def __init__(self, whole: VQMethod):
        self.tokenizer_class = whole.tokenizer_class
        super().__init__(whole.config, whole.losses, whole.execution)
        self.name = f"{whole.name}/tokenizer"
        spec, by = whole.tile, whole.scale
        self.tile = TileSpec(tuple(by * s for s in spec.sides), by * spec.overlap, spec.variance)

    def restore(self, params: Params, lr: Image, keys: Keys, options: RestoreOptions) -> Restored:
        """Returns the windows [B, side, side, 3] through the tokenizer."""
        tokens = self.tokenize(params, lr)
        return Restored(self.decode_tokens(params, tokens), tokens=tokens)


def keep_codebook(params: Params, stats: Params) -> Params:
    """Returns ``params`` with the codebook of ``stats``."""
    return params | {"codebook": {"embedding": stats["codebook"]["embedding"]}}


def tokenizer_loss(
    method: VQMethod, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the reconstruction's image losses plus commitment; updates the codebook's EMA."""
    hr = batch["hr"]
    latent_key, codebook_key = jax.random.split(key)
    book = codebook.CodebookStats(**stats["codebook"])
    network = method.tokenizer.bind(params["tokenizer"])
    vectors = network.encode(hr)
    # The codes of before the EMA step below: tokens, latent and commitment belong together.
    indices = codebook.nearest(jax.lax.stop_gradient(vectors), book.embedding)
    quantized = jnp.take(book.embedding, indices, axis=0)
    commitment = codebook.commitment(vectors, quantized)
    latent = network.latent(method.training_latent(vectors, quantized, latent_key))

    # The last layer is an argument, because its gradients set the adaptive weight.
    def head(last: Params, features: jax.Array) -> jax.Array:
        decoder = params["tokenizer"]["decoder"] | {"conv_out": last}
        return method.tokenizer.apply(
            params["tokenizer"] | {"decoder": decoder}, lambda m: m.decoder.head(features)
        )

    tail = Tail(network.decoder.body(latent), params["tokenizer"]["decoder"]["conv_out"], head)
    balanced, metrics = image_loss(method, params, [(1.0, hr)], tail, step, key)
    flat = vectors.reshape(-1, vectors.shape[-1])
    book = codebook.update(book, flat, indices.reshape(-1), codebook_key)
    metrics |= {
        "commitment": commitment,
        "perplexity": codebook.perplexity(indices, book.embedding.shape[0]),
    }
    loss = balanced.surrogate + method.losses.commitment * commitment
    return loss, LossResult(metrics, stats | {"codebook": book._asdict()}, {"fake": balanced.image})


def tokenizer_panel(
    method: VQMethod, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns HR and its reconstruction through the codebook."""
    tokens = method.tokenize(params, batch["hr"])
    return {"hr": batch["hr"], "output": method.decode_tokens(params, tokens)}
