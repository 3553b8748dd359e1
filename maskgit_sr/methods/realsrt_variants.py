"""RealSRT for small networks, which are limited by their decoder: it trains otherwise."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image, Latent, Params
from maskgit_sr.methods.image import Tail
from maskgit_sr.methods.realsrt import RealSRT, RealSRTLosses
from maskgit_sr.models import control


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

    Tokens do not depend on the decoder, so the earlier stages stay valid. It restores as published.
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
