"""ITER over RealSRT's tokenizer, for small networks: its trained tokenizer is there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskgit_sr.methods import vq
from maskgit_sr.methods.base import Stage
from maskgit_sr.methods.iter import ITERConfig
from maskgit_sr.methods.iter_training import TokenStage
from maskgit_sr.models.vqgan import VQGAN, VQGANConfig


@dataclasses.dataclass(frozen=True)
class ITERConvConfig(ITERConfig):
    """Networks and decoding, as `ITERConfig`.

    Attributes:
        tokenizer: shape of the convolutional VQGAN.
    """

    tokenizer: VQGANConfig = VQGANConfig()  # type: ignore[assignment]


class ITERConv(TokenStage):
    """ITER whose tokenizer is RealSRT's VQGAN, which `--config.init` takes from a bundle.

    A tokenizer stage of its own trains it as RealSRT's does.
    """

    name = "iter_conv"
    config_class: Any = ITERConvConfig
    losses_class: Any = vq.VQLossConfig
    tokenizer_class: Any = VQGAN

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Returns the stages in order: tokenizer, tokens."""
        return {"tokenizer": self.tokenizer_stage(), "tokens": self.token_stage()}
