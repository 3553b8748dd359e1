"""Variants of RealSRT for small networks, which are limited by their decoder.

`RealSRTTuned` trains otherwise and restores as published; `RealSRTMultiscale` has another
controlling module.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image, Latent, Params
from maskgit_sr.methods.image import Tail
from maskgit_sr.methods.realsrt import (
    RealSRT,
    RealSRTConfig,
    RealSRTLosses,
)
from maskgit_sr.models import control
from maskgit_sr.models.functional import Network
from maskgit_sr.models.vqgan import VQGANConfig


@dataclasses.dataclass(frozen=True)
class TunedLosses(RealSRTLosses):
    """Training losses.

    Attributes:
        bypass: share of tokenizer examples decoded from continuous vectors, which keeps the decoder
            able to follow the controlling module's continuous residual.
    """

    bypass: float = 0.5


class RealSRTTuned(RealSRT):
    """RealSRT whose control stage also trains the tokenizer's decoder.

    Tokens do not depend on the decoder, so the earlier stages stay valid.
    """

    name = "realsrt_tuned"
    losses_class = TunedLosses
    # Trained by the tokenizer's stage, so it does not start from fresh weights.
    control_parts: tuple[str, ...] = ("tokenizer/decoder",)

    def training_latent(self, vectors: Latent, quantized: Latent, key: jax.Array) -> Latent:
        """Returns straight-through codes; for a share ``bypass`` of the examples, the vectors."""
        latent = super().training_latent(vectors, quantized, key)
        shape = (vectors.shape[0], 1, 1, 1)
        return jnp.where(jax.random.bernoulli(key, self.losses.bypass, shape), vectors, latent)

    def start_control(self, params: Params) -> Params:
        """Returns the fresh module that passes the autoencoder's latent of the LR image on."""
        return control.start_tuned(params["control"], params["tokenizer"])

    def control_tail(self, params: Params, latent: Latent, upsampled: Image) -> Tail:
        """Returns the zero convolution and the decoder, which is trained with it."""
        network = self.control.bind(params["control"])
        trained = {"zero": params["control"]["zero"], "decoder": params["tokenizer"]["decoder"]}

        def decode_steered(trained: Params, features: jax.Array) -> Image:
            residual = self.control.apply(
                params["control"] | {"zero": trained["zero"]}, lambda m: m.zero(features)
            )
            return self.tokenizer.apply(
                params["tokenizer"] | {"decoder": trained["decoder"]},
                lambda m: m.decoder(latent + residual),
            )

        return Tail(
            network.features(latent, upsampled),
            trained,
            decode_steered,
            # The adaptive weight is set where `RealSRT` sets it.
            lambda trained: trained["zero"]["kernel"],
        )


@dataclasses.dataclass(frozen=True)
class MultiscaleConfig:
    """Settings of `maskgit_sr.models.control.MultiscaleControl`.

    Attributes:
        sharpen: amount of the unsharp mask that the module starts from; 0: none.
        soften: sigma in HR pixels of the blur over the module's output; 0: none.
        network: shape of its encoder and decoder; factor and code width are the tokenizer's.
    """

    sharpen: float = 0.0
    soften: float = 0.0
    network: VQGANConfig = VQGANConfig()


@dataclasses.dataclass(frozen=True)
class RealSRTMultiscaleConfig(RealSRTConfig):
    """Networks and decoding.

    Attributes:
        control: the multiscale controlling module.
    """

    control: MultiscaleConfig = MultiscaleConfig()


class RealSRTMultiscale(RealSRTTuned):
    """RealSRT with a controlling module that predicts a residual by a decoder of its own."""

    name = "realsrt_multiscale"
    config_class = RealSRTMultiscaleConfig
    control_parts: tuple[str, ...] = ()

    def _control(self) -> Network[Any]:
        # The module fuses its encoder's features with the tokens' latent: one grid, one width.
        module, tokenizer = self.config.control, self.config.tokenizer
        for name in ("factor", "code_width"):
            expected, found = getattr(tokenizer, name), getattr(module.network, name)
            if found != expected:
                raise ValueError(
                    f"control.network: expected the tokenizer's {name} {expected}, found {found}"
                )
        return Network(
            lambda rngs: control.MultiscaleControl(
                module.network,
                sharpen=module.sharpen,
                soften=module.soften,
                **self.run,
                rngs=rngs,
            )
        )

    def draw(self, params: Params, latent: Latent, upsampled: Image) -> Image:
        """Returns the image of a latent, by the controlling module's own decoder."""
        return self.control.apply(params["control"], lambda m: m(latent, upsampled))

    def start_control(self, params: Params) -> Params:
        """Returns the fresh module, whose decoder's last convolution is zero."""
        return control.start_multiscale(params["control"])

    def control_tail(self, params: Params, latent: Latent, upsampled: Image) -> Tail:
        """Returns the last convolution of the controlling module's own decoder."""
        module = params["control"]

        def draw(last: Params, features: jax.Array) -> Image:
            decoder = module["decoder"] | {"conv_out": last}
            return self.control.apply(
                module | {"decoder": decoder}, lambda m: m.head(features, upsampled)
            )

        features = self.control.apply(module, lambda m: m.body(latent, upsampled))
        return Tail(features, module["decoder"]["conv_out"], draw)
