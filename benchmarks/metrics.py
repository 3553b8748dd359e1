"""Speed and memory of the metrics, beside the reference implementations that are installed.

    python -m benchmarks.metrics                    # images a second at 512x512, each metric
    python -m benchmarks.metrics --total 100        # one after the other, as an evaluation does
    python -m benchmarks.metrics --metrics niqe dists --side 256

Images are photographs if `--photos` names a folder, else noise over gradients; outputs are the same
with noise. One image a call, compilation and loading excluded, median of several. Metrics whose
weights are absent are named and left out. References are scikit-image (PSNR, SSIM) and
pytorch-msssim; one that cannot be imported is named.

`--total` scores that many images by PSNR (RGB and Y), SSIM, MS-SSIM and LPIPS-alex, drops each, and
prints the seconds, and the resident memory after 10 and after all. The demand is 60 s for 100
images on 2 cores. Load on the machine is printed: figures taken under load say little.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import common
from data.sources import ImageFolder
from maskgit_sr import metrics

EVALUATION = ("psnr_rgb", "psnr_y", "ssim_y", "ms_ssim_y", "lpips_alex")
Call = Callable[..., Any]


def pairs(photos: str | None, side: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (output, original), float32 [1, side, side, 3], multiples of 1/255, one at a time."""
    source = ImageFolder(photos) if photos else None
    for index in range(count):
        rng = np.random.default_rng(index)
        hr: np.ndarray
        if source is not None:
            image = Image.fromarray(source[index % len(source)]["image"])
            hr = np.asarray(image.resize((side, side)), np.float64)
        else:
            ramp = np.linspace(0, 80, side)[:, None]
            hr = (ramp + ramp.T)[..., None] + rng.normal(48, 20, (side, side, 3))
        noisy = hr + rng.normal(0, 8, hr.shape)
        sr, hr = (np.round(np.clip(z, 0, 255)).astype(np.float32)[None] / 255 for z in (noisy, hr))
        yield sr, hr


def ours(name: str) -> Call:
    """Returns the metric called `name` as a function of (output, original)."""
    metric = metrics.create([name])[name]
    call = metric.add if metric.spec.of_set else metric

    def outputs(sr: np.ndarray) -> np.ndarray:
        return np.stack([sr, sr[:, ::-1]], axis=1) if metric.spec.of_samples else sr

    def given(hr: np.ndarray) -> list[np.ndarray]:
        return [hr if kind == "hr" else hr[:, ::4, ::4] for kind in metric.spec.images]

    # np.asarray waits for the device, which a timing must.
    return lambda sr, hr: np.asarray(call(outputs(sr), *given(hr)))


def _skimage() -> dict[str, Call]:
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    def luma(x: np.ndarray) -> np.ndarray:
        return (rgb2ycbcr(x[0])[..., 0] / 255).astype(np.float32)

    psnr = partial(peak_signal_noise_ratio, data_range=1)
    # Not scikit-image's defaults, but its documented settings for SSIM as published.
    ssim: Call = partial(
        structural_similarity,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return {
        "psnr_rgb": lambda x, y: psnr(y, x),
        "psnr_y": lambda x, y: psnr(luma(y), luma(x)),
        "ssim_y": lambda x, y: ssim(luma(x), luma(y)),
        "ssim_rgb": lambda x, y: ssim(x[0], y[0], channel_axis=-1),
    }


def _pytorch_msssim() -> dict[str, Call]:
    import pytorch_msssim
    import torch

    def of_arrays(function: Callable[..., Any]) -> Call:
        def call(x: np.ndarray, y: np.ndarray) -> Any:
            tensors = [torch.from_numpy(z).permute(0, 3, 1, 2).contiguous() for z in (x, y)]
            with torch.no_grad():
                return function(*tensors, data_range=1, size_average=False)

        return call

    return {
        "ssim_rgb": of_arrays(pytorch_msssim.ssim),
        "ms_ssim_rgb": of_arrays(pytorch_msssim.ms_ssim),
    }


REFERENCES = {"scikit-image": _skimage, "pytorch-msssim": _pytorch_msssim}


def measure(call: Call, images: list[tuple[np.ndarray, np.ndarray]], repeats: int) -> str:
    """Returns the text of images a second (median) and CPU ms an image, without compilation."""
    call(*images[0])
    taken = [common.timed(call, *images[index % len(images)]) for index in range(repeats)]
    cpu = statistics.fmean(one.cpu for one in taken)
    return f"{1 / statistics.median(one.wall for one in taken):8.1f} /s, {1e3 * cpu:8.1f} CPU ms"


def speeds(names: list[str], photos: str | None, side: int, repeats: int) -> None:
    """Prints one line for each metric and implementation."""
    images, others = list(pairs(photos, side, min(repeats, 4))), {}
    for package, make in REFERENCES.items():
        try:
            others[package] = make()
        except ImportError as error:
            print(f"reference left out: {package} ({error})")
    for name in names:
        if missing := metrics.available(name):
            print(f"{name:18} left out: {missing}")
            continue
        print(f"{name:18} {'here':15} {measure(ours(name), images, repeats)}", flush=True)
        for package, calls in others.items():
            if name in calls:
                print(f"{'':18} {package:15} {measure(calls[name], images, repeats)}", flush=True)


def total(count: int, photos: str | None, side: int) -> None:
    """Prints the seconds of scoring `count` images, and the resident memory."""
    chosen = metrics.create(EVALUATION)
    first = next(pairs(photos, side, 1))
    loading = common.timed(lambda: [float(metric(*first)[0]) for metric in chosen.values()])
    print(f"loading and compiling for {side}x{side}: {loading.wall:.1f} s")
    sums, spent = (dict.fromkeys(chosen, 0.0) for _ in range(2))
    for index, pair in enumerate(pairs(photos, side, count)):
        for name, metric in chosen.items():
            one = common.timed(lambda metric=metric, pair=pair: float(metric(*pair)[0]))
            sums[name] += one.result
            spent[name] += one.wall
        if index + 1 in (10, count):
            print(f"after {index + 1:4} images: {common.resident():.1f} MiB resident", flush=True)
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    print(f"{count} images of {side}x{side}: {sum(spent.values()):.1f} s ({parts})")
    print("means: " + ", ".join(f"{name} {value / count:.4f}" for name, value in sums.items()))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--metrics", nargs="+", default=list(metrics.SPECS), choices=metrics.SPECS)
    parser.add_argument("--photos", help="folder of photographs")
    parser.add_argument("--side", type=common.positive, default=512)
    parser.add_argument("--repeats", type=common.positive, default=9, help="measurements of each")
    parser.add_argument("--total", type=common.positive, help="images to score by five metrics")
    given = parser.parse_args()
    loads = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{jax.devices()[0].platform}, {os.cpu_count()} cores, load averages {loads}")
    if given.total:
        total(given.total, given.photos, given.side)
    else:
        speeds(given.metrics, given.photos, given.side, given.repeats)


if __name__ == "__main__":
    main()
