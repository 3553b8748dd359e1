"""Inception Score: Salimans et al. 2016 (arXiv:1606.03498), of a set of outputs alone.

One number for a set: exp of the mean divergence of an image's classes from those of the whole set,
between 1 and the number of classes. It says nothing about single images or originals, and below
some thousands of images it is biased downwards: compare only sets of one size.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float
from scipy.special import log_softmax

from maskgit_sr.arrays import Image
from maskgit_sr.metrics.networks import inception
from maskgit_sr.metrics.programs import by_size
from maskgit_sr.perceptual import published

PARTS = 10
Logits = Callable[[Image], Float[Array, "B N"]]


class InceptionScore:
    """Inception Score of images that are added batch by batch; the mean over `PARTS` parts.

    The i-th image belongs to part i mod `PARTS`, so that memory does not grow with their number,
    and a set that is sorted by class has all classes in each part.
    """

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self.clear()

    def clear(self) -> None:
        """Forgets all images."""
        self._count = 0
        self._entropy = np.zeros(PARTS)  # sums of Σ p log p
        self._sums = np.zeros((PARTS, 1))  # sums of p, [parts, classes]

    def add(self, x: Image) -> None:
        """Adds images [B,H,W,3] in [0,1]."""
        logs = log_softmax(np.asarray(self._logits(x), np.float64), axis=-1)
        if not self._count:
            self._sums = np.zeros((PARTS, logs.shape[1]))
        for row in logs:
            part = self._count % PARTS
            self._sums[part] += np.exp(row)
            self._entropy[part] += np.exp(row) @ row
            self._count += 1

    def parts(self) -> Float[np.ndarray, "10"]:
        """Returns the score of each part, whose standard deviation papers print beside the mean.

        Raises:
            ValueError: fewer than `PARTS` images.
        """
        if self._count < PARTS:
            raise ValueError(f"IS: expected at least {PARTS} images, found {self._count}")
        counts = np.array([len(range(part, self._count, PARTS)) for part in range(PARTS)])
        mean = self._sums / counts[:, None]
        # A class that no image has adds nothing, and its logarithm is -inf.
        logs = np.log(mean, where=mean != 0, out=np.zeros_like(mean))
        return np.exp(self._entropy / counts - (mean * logs).sum(1))

    def value(self) -> float:
        """Returns the mean over the parts, at least 1; NaN if an image held one.

        Raises:
            ValueError: fewer than `PARTS` images.
        """
        return float(self.parts().mean())


def load(file: Path) -> InceptionScore:
    """Returns the score by the classifier of `inception_fid.safetensors`.

    Raises:
        UserError: the file is not this network, or lacks its classifier.
    """
    params = published.load(file, inception.read, inception.logits, images=1)
    apply = by_size(inception.logits)
    return InceptionScore(lambda x: apply(params, x))
