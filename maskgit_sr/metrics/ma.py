"""Ma et al. 2017, "Learning a no-reference quality metric for single-image super-resolution".

Three random forests see statistics of an image: of its local frequencies, of its oriented subbands
and of its patches. A linear function of what they predict is the score, 0 to 10, as people gave it
to the results of nine methods; higher is better. The perceptual index of the PIRM challenge (Blau
et al. 2018) is (10 − Ma + NIQE) / 2 of Y without a border of 4 pixels; lower is better.

Features are those of the authors' MATLAB code, in float64: a forest's thresholds are sharp.
IQA-PyTorch's differ from it in details (blocks at the border, the last orientation's parent band,
negative structure), by which its perceptual index is off by up to 0.18.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskgit_sr.arrays import Image
from maskgit_sr.errors import UserError
from maskgit_sr.metrics import niqe
from maskgit_sr.metrics.ma_features import COUNTS, MIN_SIDE, features
from maskgit_sr.metrics.pixel import Score, cut, on_host, rgb_to_luma, rgb_to_y
from maskgit_sr.perceptual.published import single


class Forest(NamedTuple):
    """A regression forest of T trees with up to N nodes, all arrays [T, N].

    Attributes:
        left, right: node that follows where the attribute is at most, and above, the threshold; −1
            in leaves.
        attribute: index of the feature that a node asks for.
        threshold: of that feature.
        value: prediction of a leaf.
    """

    left: np.ndarray
    right: np.ndarray
    attribute: np.ndarray
    threshold: np.ndarray
    value: np.ndarray

    def predict(self, features: np.ndarray) -> float:
        """Returns the mean of the trees' predictions."""
        trees = np.arange(len(self.left))
        node = np.zeros(len(trees), int)
        for _ in range(self.left.shape[1]):
            asked = features[self.attribute[trees, node]] <= self.threshold[trees, node]
            following = np.where(asked, self.left[trees, node], self.right[trees, node])
            if (following < 0).all():
                break
            node = np.where(following < 0, node, following)
        return float(self.value[trees, node].mean())


def load(
    file: Path, color: Literal["luma", "y"] = "luma", border: int = 0
) -> Callable[[Image], Score]:
    """Returns the score [B,H,W,3] in [0,1] -> [B] by the forests in `file`.

    Args:
        file: the authors' `model.mat`, converted by `python -m maskgit_sr.convert.networks`.
        color: "luma" is rgb2gray, "y" MATLAB's Y in [16,235]; both rounded to 8 bits.
        border: pixels cut from each side first.

    The score of a flat image is NaN, since nothing is left that has statistics. It raises
    ValueError for images with a side below 84 pixels without the border.

    Raises:
        UserError: the file is something else.
    """
    forests, linear = _read(file)

    def score(x: Image) -> Score:
        [x] = on_host(x)
        x = cut(single(x, MIN_SIDE + 2 * border), border)
        grey = (255 * rgb_to_y(x)).round() if color == "y" else rgb_to_luma(x)
        found = []
        for levels in np.asarray(grey, np.float64)[..., 0]:
            # Written so that NaN, which fails every comparison, gets no score either.
            if not 0 < levels.max() - levels.min() < np.inf:
                found.append(np.nan)
                continue
            parts = zip(forests, features(levels), strict=True)
            predicted = [forest.predict(part) for forest, part in parts]
            found.append(linear[0] + linear[1:] @ np.asarray(predicted))
        return jnp.asarray(np.array(found, np.float32))

    return score


def load_index(file: Path, statistics: Path, border: int) -> Callable[[Image], Score]:
    """Returns the perceptual index [B,H,W,3] in [0,1] -> [B], by the files of `load` and NIQE.

    Raises:
        UserError: a file is something else.
    """
    ma, natural = load(file, "y", border), niqe.load(statistics, "y", border)
    return lambda x: (10 - ma(x) + natural(x)) / 2


def _read(file: Path) -> tuple[list[Forest], np.ndarray]:
    try:
        stored = load_file(file)
        forests = [Forest(*(stored[f"{i}.{name}"] for name in Forest._fields)) for i in range(3)]
        for forest, count in zip(forests, COUNTS, strict=True):
            shapes = {array.shape for array in forest}
            if len(shapes) != 1 or forest.left.ndim != 2 or not forest.left.size:
                raise ValueError(f"expected arrays [trees, nodes], found {sorted(shapes)}")
            for child in (forest.left, forest.right):
                if child.min() < -1 or child.max() >= child.shape[1]:
                    raise ValueError("a node's daughter is not in its tree")
            if forest.attribute.min() < 0 or forest.attribute.max() >= count:
                raise ValueError(f"expected attributes 0 to {count - 1}")
        return forests, stored["linear"].reshape(4)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file}: not the forests of Ma's metric ({reason})") from None
