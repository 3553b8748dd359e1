"""Compares `data` with the public BasicSR and Real-ESRGAN code, run beside it.

    python -m benchmarks.degradation_fidelity --basicsr BasicSR --realesrgan Real-ESRGAN \\
        --photos DIR [--chains 2000]

Compared are kernels with equal parameters, each deterministic step on equal input, and the
distributions of three measures over many chains on the same HR crops: PSNR between LR and the
bicubic reduction of HR, noise level (robust standard deviation of the finest diagonal detail) and
sharpness (log variance of the Laplacian). Exit code 1 if a step differs or a two-sample
Kolmogorov–Smirnov test has p ≤ 0.01. CPU time of a chain on one core is printed too; with
`--published_sharpening` the public code runs unchanged, else with its own OpenCV sharpening, whose
results are equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from scipy import stats

from benchmarks import common
from benchmarks.references import RealESRGAN
from data import degradations, operations
from data.examples import random_crop
from data.kernels import Kernel
from data.sources import ImageFolder
from maskgit_sr.images.samples import unit


def compare_kernels(reference: RealESRGAN) -> float:
    """Returns the largest difference over the seven kinds of kernel and all sizes."""
    rng, public, worst = np.random.default_rng(0), reference.degradations, 0.0
    for size in range(7, 22, 2):
        for _ in range(10):
            x, y = rng.uniform(0.2, 3, 2)
            theta, beta = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 4)
            cutoff = rng.uniform(np.pi / 5, np.pi)
            pairs = [
                (Kernel("sinc", size, cutoff=cutoff), public.circular_lowpass_kernel(cutoff, size))
            ]
            for isotropic in (True, False):
                axes = (x, x, 0.0) if isotropic else (x, y, theta)
                shape = {"isotropic": isotropic}
                theirs = {
                    "gaussian": public.bivariate_Gaussian(size, x, y, theta, **shape),
                    "generalized": public.bivariate_generalized_Gaussian(
                        size, x, y, theta, beta, **shape
                    ),
                    "plateau": public.bivariate_plateau(size, x, y, theta, beta, **shape),
                }
                for kind, array in theirs.items():
                    used = 1.0 if kind == "gaussian" else beta
                    pairs.append((Kernel(kind, size, *axes, beta=used), array))
            worst = max(worst, *(float(np.abs(k.array() - t).max()) for k, t in pairs))
    return worst


def compare_steps(reference: RealESRGAN, image: np.ndarray) -> dict[str, float]:
    """Returns the largest difference of each deterministic step, in levels of 255.

    Args:
        image: HR, uint8 [H, W, 3].
    """
    torch, public = reference.torch, reference.processing
    functional = torch.nn.functional
    hr = unit(image)

    def tensor(array: np.ndarray) -> object:
        return torch.from_numpy(array.transpose(2, 0, 1).copy())[None]

    def array(value: object) -> np.ndarray:
        return value[0].numpy().transpose(1, 2, 0)  # type: ignore[index]

    found: dict[str, float] = {}

    def note(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        if ours.shape != theirs.shape:
            raise ValueError(f"{name}: {ours.shape} here, {theirs.shape} there")
        found[name] = max(found.get(name, 0.0), 255 * float(np.abs(ours - theirs).max()))

    note("sharpen", operations.usm_sharpen(hr), array(public.USMSharp()(tensor(hr))))
    note("sharpen (OpenCV)", operations.usm_sharpen(hr), public.usm_sharp(hr))
    for kernel in (Kernel("gaussian", 21, 2.0, 2.0), Kernel("plateau", 15, 2.0, 0.7, 1.0, 1.5)):
        weights = np.pad(kernel.array(), (21 - kernel.size) // 2)
        theirs = public.filter2D(tensor(hr), torch.from_numpy(weights)[None])
        note("blur", operations.blur(hr, kernel.array()), array(theirs))
    height, width = hr.shape[:2]
    modes = {"adaptive": "area", "bilinear": "bilinear", "bicubic": "bicubic"}
    for ours, theirs in modes.items():
        for factor in (0.1507, 0.25, 0.3713, 0.731, 0.998, 1.002, 1.2345, 1.4999):
            size = (int(height * factor), int(width * factor))
            by_size = functional.interpolate(tensor(hr), size=size, mode=theirs)
            note(f"{ours} by size", operations.resize(hr, *size, ours), array(by_size))
            by_factor = functional.interpolate(tensor(hr), scale_factor=factor, mode=theirs)
            resized = operations.resize(hr, *size, ours, factor=factor)
            note(f"{ours} by factor", resized, array(by_factor))
    for quality in (30, 62, 95):
        bgr = np.ascontiguousarray(hr[..., ::-1])
        theirs = reference.degradations.add_jpg_compression(bgr, quality)[..., ::-1]
        note("JPEG", operations.jpeg(hr, quality), theirs)
    return found


def compare_noises(reference: RealESRGAN, image: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns (ours, public code's) standard deviation of each noise before clipping, in levels."""
    torch, public = reference.torch, reference.degradations
    hr = unit(image)
    batch = torch.from_numpy(hr.transpose(2, 0, 1).copy())[None]
    rng, found = np.random.default_rng(0), {}
    for grey in (False, True):
        pairs = {
            "Gaussian": (
                operations.gaussian_noise(hr, 20 / 255, rng, grey=grey) - hr,
                public.generate_gaussian_noise_pt(batch, 20, float(grey)),
            ),
            "shot": (
                operations.poisson_noise(hr, 2.0, rng, grey=grey) - hr,
                public.generate_poisson_noise_pt(batch, 2.0, float(grey)),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            found[f"{'grey ' * grey}{name}"] = (255 * float(ours.std()), 255 * float(theirs.std()))
    return found


def measures(lr: np.ndarray, reduced: np.ndarray) -> tuple[float, float, float]:
    """Returns PSNR in dB against the bicubic LR, noise in levels, log variance of the Laplacian."""
    error = np.mean((lr.astype(np.float64) - reduced) ** 2)
    grey = cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # Halved, a sum of four pixels keeps the deviation of their noise; for a Gaussian the median of
    # its absolute value is 0.6745 of that.
    diagonal = (grey[::2, ::2] - grey[1::2, ::2] - grey[::2, 1::2] + grey[1::2, 1::2]) / 2
    sharpness = np.log(cv2.Laplacian(grey, cv2.CV_32F).var() + 1e-3)
    return (
        float(10 * np.log10(255**2 / max(error, 1e-3))),
        float(np.median(np.abs(diagonal)) / 0.6745),
        float(sharpness),
    )


def chain(preset: str, rng: np.random.Generator, hr: np.ndarray) -> np.ndarray:
    """Returns HR, uint8 [side, side, 3], degraded by a random chain, uint8 [side/4, side/4, 3]."""
    height, width = hr.shape[:2]
    return degradations.draw(rng, preset, height, width, 4).apply(hr)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--basicsr", type=Path, required=True)
    parser.add_argument("--realesrgan", type=Path, required=True)
    parser.add_argument("--photos", required=True, help="folder of HR photographs")
    parser.add_argument("--chains", type=int, default=2000)
    parser.add_argument("--crop", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--published_sharpening", action="store_true", help="time the public code as it is"
    )
    given = parser.parse_args()
    try:
        reference = RealESRGAN(given.basicsr, given.realesrgan, given.crop)
        photos = ImageFolder(given.photos)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    # One thread each, so that the CPU times of a chain compare.
    reference.torch.set_num_threads(1)
    cv2.setNumThreads(0)
    failed, crop = False, given.crop

    worst = compare_kernels(reference)
    failed |= worst > 1e-6
    print(f"kernels: largest difference {worst:.1e}")
    image = photos[0]["image"][:crop, :crop]
    for name, difference in compare_steps(reference, image).items():
        failed |= difference > 0.5
        print(f"{name}: largest difference {difference:.4f} levels")
    for name, (here, there) in compare_noises(reference, image).items():
        failed |= abs(here / there - 1) > 0.02
        print(f"{name} noise: standard deviation {here:.3f}, public code {there:.3f} levels")

    if not given.published_sharpening:
        reference.use_separable_sharpening()
    reference.seed(given.seed)
    rows: list[list[tuple[float, float, float]]] = [[], []]
    spent: list[list[float]] = []
    for i in range(given.chains):
        rng = np.random.default_rng([given.seed, i])
        hr = np.ascontiguousarray(random_crop(photos[i % len(photos)]["image"], crop, rng))
        runs = [common.timed(chain, "realesrgan", rng, hr), common.timed(reference.degrade, hr)]
        reduced = chain("bicubic", rng, hr)
        spent.append([1e3 * run.cpu for run in runs])
        for side, run in zip(rows, runs, strict=True):
            side.append(measures(run.result, reduced))
        if sys.stderr.isatty() or i % 100 == 99:
            print(f"\r{i + 1} of {given.chains} chains", end="", file=sys.stderr, flush=True)
    here, there = np.mean(spent[1:] or spent, axis=0)  # the first fills caches
    print(f"\nCPU ms an example: {here:.1f}, public code {there:.1f}, {there / here:.1f} times")
    ours, theirs = (np.asarray(side) for side in rows)
    for column, name in enumerate(("PSNR", "noise", "sharpness")):
        a, b = ours[:, column], theirs[:, column]
        test = stats.ks_2samp(a, b)
        failed |= not test.pvalue > 0.01  # fails for NaN too
        print(
            f"{name}: median {np.median(a):.2f}, public code {np.median(b):.2f}; "
            f"KS distance {test.statistic:.3f}, p {test.pvalue:.3f}"
        )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
