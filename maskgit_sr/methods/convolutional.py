"""Networks that are a chain of 3×3 convolutions, as data: exports build them in other languages."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

Kernel = Float[np.ndarray, "3 3 C D"]
Channels = Float[np.ndarray, "D"]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A stride-1 convolution, padded by one pixel, with its bias and PReLU; float32.

    Attributes:
        slope: factor of negative values by channel; None: no activation.
        residual: the layer's input is added to its output.
        edge: the padding repeats the border instead of being zero.
    """

    kernel: Kernel
    bias: Channels
    slope: Channels | None = None
    residual: bool = False
    edge: bool = False


@dataclasses.dataclass(frozen=True)
class Chain:
    """The image is depth-to-space of the last layer's output plus the nearest enlargement of LR.

    Attributes:
        layers: in order; the first takes the LR image in [0, 1], the last gives 3·scale² channels
            in the order row, column, colour.
        scale: output side over input side.
    """

    layers: tuple[Convolution, ...]
    scale: int
