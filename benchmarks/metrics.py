"""Speed and memory of the metrics, beside the reference implementations that are installed.

    python -m benchmarks.metrics                    # images a second at 512x512, each metric
    python -m benchmarks.metrics --total 100        # one after the other, as an evaluation does
    python -m benchmarks.metrics --metrics niqe dists --side 256

Images are photographs if `--photos` names a folder, else noise over gradients; outputs are the same
with noise. One image a call, compilation and loading excluded, median of several. Metrics whose
weights are absent are named and left out. References are scikit-image (PSNR, SSIM) and, where they
can be imported, pytorch-msssim, lpips, piq and pyiqa; those that cannot are named. They get the
same images and, under PyTorch, the same number of threads.

`--total` scores that many images by PSNR (RGB and Y), SSIM, MS-SSIM and LPIPS-alex, drops each, and
prints the seconds, and the resident memory after 10 and after all. The demand is 60 s for 100
images on 2 cores. Load on the machine is printed: figures taken under load say little.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from maskgit_sr import metrics

EVALUATION = ("psnr_rgb", "psnr_y", "ssim_y", "ms_ssim_y", "lpips_alex")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
Call = Callable[[np.ndarray, np.ndarray], Any]


def pairs(photos: str | None, side: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(output, original), uint8-valued float32 [1,side,side,3] in [0,1]; only one is in memory."""
    files = (
        sorted(p for p in Path(photos).iterdir() if p.suffix.lower() in SUFFIXES) if photos else []
    )
    for index in range(count):
        rng = np.random.default_rng(index)
        hr: np.ndarray
        if files:
            with Image.open(files[index % len(files)]) as picture:
                hr = np.asarray(picture.convert("RGB").resize((side, side)), np.float64)
        else:
            ramp = np.linspace(0, 80, side)[:, None]
            hr = (ramp + ramp.T)[..., None] + rng.normal(48, 20, (side, side, 3))
        noisy = hr + rng.normal(0, 8, hr.shape)
        sr, hr = (np.round(np.clip(z, 0, 255)).astype(np.float32)[None] / 255 for z in (noisy, hr))
        yield sr, hr


def ours(name: str) -> Call:
    """The metric called `name` as a function of (output, original)."""
    metric = metrics.create([name])[name]
    if metric.spec.needs == "none":
        return lambda sr, hr: np.asarray(metric(sr))
    if metric.spec.needs == "lr":
        return lambda sr, hr: np.asarray(metric(sr, hr[:, ::4, ::4]))
    if metric.spec.needs == "set":
        return lambda sr, hr: metric.add(sr, hr)
    return lambda sr, hr: np.asarray(metric(sr, hr))


def references(names: list[str]) -> tuple[dict[str, dict[str, Call]], list[str]]:
    """Other programs by metric and name, and the packages that cannot be imported."""
    found: dict[str, dict[str, Call]] = {name: {} for name in names}
    absent = []
    for package, make in REFERENCES.items():
        try:
            importlib.import_module(package)
            calls = make()
        except (ImportError, OSError, RuntimeError) as error:
            absent.append(f"{package} ({str(error).splitlines()[0] if str(error) else error})")
            continue
        for name, call in calls.items():
            if name in found:
                found[name][package] = call
    return found, absent


def _skimage() -> dict[str, Call]:
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    def luma(x: np.ndarray) -> np.ndarray:
        return (rgb2ycbcr(x[0])[..., 0] / 255).astype(np.float32)

    def ssim(x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
        return structural_similarity(
            *(x, y),
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            **options,
        )

    return {
        "psnr_rgb": lambda x, y: peak_signal_noise_ratio(y, x, data_range=1),
        "psnr_y": lambda x, y: peak_signal_noise_ratio(luma(y), luma(x), data_range=1),
        "ssim_y": lambda x, y: ssim(luma(x), luma(y)),
        "ssim_rgb": lambda x, y: ssim(x[0], y[0], channel_axis=-1),
    }


def _torch(function: Callable[..., Any], one: bool = False) -> Call:
    """A function of NCHW tensors as one of our arrays; `one` leaves the original out."""
    import torch

    def call(x: np.ndarray, y: np.ndarray) -> Any:
        tensors = [torch.from_numpy(z).permute(0, 3, 1, 2).contiguous() for z in (x, y)]
        with torch.no_grad():
            return function(*(tensors[:1] if one else tensors))

    return call


def _pytorch_msssim() -> dict[str, Call]:
    module: Any = importlib.import_module("pytorch_msssim")
    options = dict(data_range=1, size_average=False)
    return {
        "ssim_rgb": _torch(lambda x, y: module.ssim(x, y, **options)),
        "ms_ssim_rgb": _torch(lambda x, y: module.ms_ssim(x, y, **options)),
    }


def _lpips() -> dict[str, Call]:
    module: Any = importlib.import_module("lpips")
    # Random weights take as long as published ones, and need no download.
    nets = {
        net: module.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()
        for net in ("alex", "squeeze", "vgg")
    }
    return {
        f"lpips_{name}": _torch(lambda x, y, net=net: net(x, y, normalize=True))
        for name, net in nets.items()
    }


def _piq() -> dict[str, Call]:
    module: Any = importlib.import_module("piq")
    return {
        "psnr_rgb": _torch(lambda x, y: module.psnr(x, y, data_range=1)),
        "ssim_rgb": _torch(lambda x, y: module.ssim(x, y, data_range=1, downsample=False)),
        "ms_ssim_rgb": _torch(lambda x, y: module.multi_scale_ssim(x, y, data_range=1)),
    }


def _pyiqa() -> dict[str, Call]:
    module: Any = importlib.import_module("pyiqa")
    names = {"ssim_luma": "ssim", "ms_ssim_luma": "ms_ssim", "lpips_alex": "lpips"}
    calls = {
        ours: _torch(module.create_metric(theirs, device="cpu")) for ours, theirs in names.items()
    }
    for ours, theirs in (("niqe", "niqe"), ("musiq", "musiq"), ("clipiqa_pyiqa", "clipiqa")):
        calls[ours] = _torch(module.create_metric(theirs, device="cpu"), one=True)
    return calls


REFERENCES: dict[str, Callable[[], dict[str, Call]]] = {
    "skimage": _skimage,
    "pytorch_msssim": _pytorch_msssim,
    "lpips": _lpips,
    "piq": _piq,
    "pyiqa": _pyiqa,
}


def measure(call: Call, images: list[tuple[np.ndarray, np.ndarray]], repeats: int) -> str:
    """Images a second (median) and CPU seconds an image, compilation excluded."""
    call(*images[0])
    walls = []
    cpu = time.process_time()
    for index in range(repeats):
        start = time.perf_counter()
        call(*images[index % len(images)])
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / repeats
    return f"{1 / statistics.median(walls):8.1f} /s, {1e3 * cpu:8.1f} CPU ms"


def speeds(names: list[str], photos: str | None, side: int, repeats: int) -> None:
    """Prints one line for each metric and program."""
    images = list(pairs(photos, side, min(repeats, 4)))
    others, absent = references(names)
    for name in names:
        if missing := metrics.available(name):
            print(f"{name:18} left out: {missing}")
            continue
        print(f"{name:18} {'here':15} {measure(ours(name), images, repeats)}", flush=True)
        for package, call in others[name].items():
            print(f"{'':18} {package:15} {measure(call, images, repeats)}", flush=True)
    for line in absent:
        print(f"reference left out: {line}")


def total(count: int, photos: str | None, side: int) -> None:
    """Prints what scoring `count` images takes, and the memory that it holds."""
    chosen = metrics.create(EVALUATION)
    start = time.perf_counter()
    for metric in chosen.values():
        metric(*next(pairs(photos, side, 1)))[0].block_until_ready()
    print(f"loading and compiling for {side}x{side}: {time.perf_counter() - start:.1f} s")
    sums = dict.fromkeys(chosen, 0.0)
    spent, cpu = dict.fromkeys(chosen, 0.0), time.process_time()
    for index, pair in enumerate(pairs(photos, side, count)):
        for name, metric in chosen.items():
            start = time.perf_counter()
            sums[name] += float(metric(*pair)[0])
            spent[name] += time.perf_counter() - start
        if index + 1 in (10, count):
            print(f"after {index + 1:4} images: {resident():.1f} MiB resident", flush=True)
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    print(f"{count} images of {side}x{side}: {sum(spent.values()):.1f} s ({parts})")
    print(f"CPU time, with making the images: {time.process_time() - cpu:.1f} s")
    print("means: " + ", ".join(f"{name} {value / count:.4f}" for name, value in sums.items()))


def resident() -> float:
    """MiB of memory that this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load() -> str:
    """The machine, for a report."""
    loads = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    device = jax.devices()[0]
    return f"{device.platform}, {os.cpu_count()} cores, load averages {loads}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metrics", nargs="+", default=list(metrics.SPECS), choices=metrics.SPECS)
    parser.add_argument("--photos", help="folder of photographs")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each")
    parser.add_argument("--total", type=int, default=0, help="images to score by five metrics")
    options = parser.parse_args()
    print(load())
    if options.total:
        total(options.total, options.photos, options.side)
    else:
        speeds(options.metrics, options.photos, options.side, options.repeats)
    print(load())


if __name__ == "__main__":
    main()
