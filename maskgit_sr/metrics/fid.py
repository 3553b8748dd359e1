"""FID: Heusel et al. 2017 (arXiv:1706.08500), the Fréchet distance of two sets of images.

One number for two sets, not for a pair of images: below some thousands of images it is biased
upwards and noisy, so compare only sets of one size. The features are pool_3 of the 2015 TensorFlow
Inception-v3, images resized bilinearly without antialiasing, as pytorch-fid does.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.metrics.networks import inception
from maskgit_sr.metrics.programs import by_size
from maskgit_sr.perceptual import published

Features = Callable[[Image], Float[Array, "B D"]]


class Gaussian:
    """Count, mean [D] and covariance [D,D] of vectors that come in batches; memory stays D²."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, batch: Float[np.ndarray, "B D"]) -> None:
        """Adds vectors, in float64, so that their order hardly matters."""
        batch = np.asarray(batch, np.float64)
        if not self.count:
            self.mean = np.zeros(batch.shape[1])
            self._scatter = np.zeros((batch.shape[1],) * 2)
        # Scatters around means are merged: sums of raw squares would cancel where means are large.
        centred = batch - batch.mean(0)
        shift = batch.mean(0) - self.mean
        total = self.count + len(batch)
        self._scatter += centred.T @ centred
        self._scatter += np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total

    def cov(self) -> np.ndarray:
        """Returns the unbiased covariance.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"FID: expected at least 2 images a set, found {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Returns |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½) of two Gaussians; NaN if any input is.

    (C1 C2)^½ has the trace of (C1^½ C2 C1^½)^½, which is symmetric, so that singular covariances
    need no special care: eigenvalues below 0 are rounding, and so is a distance below 0.
    """
    if not all(np.isfinite(part).all() for part in (mean1, cov1, mean2, cov2)):
        return float("nan")
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov2 @ root)
    overlap = np.sqrt(np.maximum(product, 0)).sum()
    difference = mean1 - mean2
    distance = difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * overlap
    return float(max(distance, 0))


class FrechetDistance:
    """Fréchet distance of two sets of images, which are added batch by batch."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.clear()

    def clear(self) -> None:
        """Forgets all images."""
        self._outputs, self._references = Gaussian(), Gaussian()

    def add(self, x: Image, y: Image) -> None:
        """Adds outputs and references [B,H,W,3] in [0,1]; the two need not have one shape."""
        self._outputs.add(np.asarray(self._features(x)))
        self._references.add(np.asarray(self._features(y)))

    def value(self) -> float:
        """Returns the FID of what was added, at least 0; NaN if an image held one.

        Raises:
            ValueError: fewer than two images a set.
        """
        sets = (self._outputs, self._references)
        (mean1, cov1), (mean2, cov2) = ((part.mean, part.cov()) for part in sets)
        return frechet_distance(mean1, cov1, mean2, cov2)


def load(file: Path) -> FrechetDistance:
    """Returns FID by the features of `inception_fid.safetensors`, pool_3 of Inception-v3.

    Raises:
        UserError: the file is not this network.
    """
    params = published.load(file, inception.read, inception.features, images=1)
    apply = by_size(inception.features)
    return FrechetDistance(lambda x: apply(params, x))
