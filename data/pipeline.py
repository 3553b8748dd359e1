"""Training batches and validation pairs.

Determinism: grain's `random_map` seeds its generator by (seed, index in the dataset). It stands
*before* `shuffle` and `repeat`, which hand down epoch · length + example index; so every draw is a
function of (seed, epoch, example index). Number of threads, batch size, position in the batch and
number of shards change nothing in an example, and batches over all shards are those of one shard.

    python -m data.pipeline --root DIR [--batch 16] [--crop 128] [--seconds 5] [--cache]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from data import degradations
from data.sources import ImageFolder, PairedFolder


def train_iterator(
    root: str | os.PathLike[str],
    *,
    batch_size: int,
    crop_size: int,
    scale: int = 4,
    seed: int = 0,
    preset: str | degradations.Settings = "medium",
    cache: bool = False,
    threads: int = 2,
    shard_index: int = 0,
    shard_count: int = 1,
    sharpen: bool = False,
) -> grain.DatasetIterator:
    """Endless shuffled batches of random crops and their degraded versions.

    Each epoch is a new permutation of all images; shard s takes positions s, s + shard_count, … of
    the endless sequence. `get_state()` gives a small JSON-ready dict, `set_state(state)` on an
    iterator made with the same arguments (threads and cache may differ) continues exactly.

    Args:
      root: folder of photographs, searched recursively.
      batch_size: examples per batch of this shard.
      crop_size: side of the HR crop; smaller images are reflected at the right and bottom.
      preset: name in `degradations.PRESETS`, or the settings themselves.
      cache: keep decoded images in memory.
      threads: reading threads; 0 works in the calling thread.
      sharpen: unsharp-mask the HR crop, target and source of the degradation alike (Real-ESRGAN).

    Yields:
      dict(hr float32 [B, crop, crop, 3], lr float32 [B, crop/scale, crop/scale, 3], index int64
      [B]); values in [0, 1], without `sharpen` all multiples of 1/255. `index` is the position in
      the sorted list of images.

    Raises:
      ValueError: missing or empty folder, or an argument out of its range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if scale < 1 or crop_size < scale or crop_size % scale:
        raise ValueError(f"crop_size must be a multiple of scale {scale}, got {crop_size}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2**32-1, got {seed}")
    if threads < 0:
        raise ValueError(f"threads must be at least 0, got {threads}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index must be in 0..{shard_count - 1}, got {shard_index}")
    if isinstance(preset, str) and preset not in degradations.PRESETS:
        known = ", ".join(degradations.PRESETS)
        raise ValueError(f"preset must be one of {known}, got {preset!r}")
    strength = degradations.PRESETS[preset] if isinstance(preset, str) else preset
    # The crops are small and already spread over the reading threads.
    cv2.setNumThreads(0)

    source = ImageFolder(root, cache=cache)

    def with_index(index: int, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "index": np.int64(index % len(source))}

    def make_pair(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        hr = random_crop(example["image"], crop_size, rng).astype(np.float32) / np.float32(255)
        if sharpen:
            hr = degradations.usm_sharpen(hr)
        lr = degradations.apply(hr, degradations.draw(rng, strength), scale)
        return {"hr": hr, "lr": lr, "index": example["index"]}

    dataset = (
        grain.MapDataset.source(source)
        .map_with_index(with_index)
        .random_map(make_pair, seed=seed)
        .shuffle(seed=seed)
        .repeat()
    )[shard_index::shard_count]
    buffer = max(2 * batch_size, 16) if threads else 0
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    return iter(dataset.to_iter_dataset(options).batch(batch_size, drop_remainder=True))


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A [size, size, 3] crop under one of the eight flips and quarter turns, all equally likely."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        below, right = max(size - height, 0), max(size - width, 0)
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
        height, width = image.shape[:2]
    top, left = rng.integers((height - size + 1, width - size + 1))
    flip_rows, flip_columns, turn = rng.integers(2, size=3)
    crop = image[top : top + size, left : left + size]
    if flip_rows:
        crop = crop[::-1]
    if flip_columns:
        crop = crop[:, ::-1]
    if turn:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop)


def validation_pairs(
    root: str | os.PathLike[str], limit: int | None = None, scale: int = 4
) -> Iterator[dict[str, Any]]:
    """Pairs of `root/lr` and `root/hr` in sorted order: dict(lr, hr uint8 [H, W, 3], id str).

    Without `root/lr`, HR is cut at the right and bottom to a multiple of `scale`, and LR is its
    antialiased bicubic reduction (PIL, MATLAB), rounded to 8 bits.

    Raises:
      ValueError: see `PairedFolder`; or HR is not exactly `scale` times its LR.
    """
    source = PairedFolder(root)
    return _validation_pairs(source, limit, scale)


def _validation_pairs(
    source: PairedFolder, limit: int | None, scale: int
) -> Iterator[dict[str, Any]]:
    for i in range(len(source) if limit is None else min(limit, len(source))):
        pair = source[i]
        hr = pair["hr"]
        if not source.has_lr:
            height, width = (n // scale for n in hr.shape[:2])
            hr = np.ascontiguousarray(hr[: height * scale, : width * scale])
            small = degradations.resize(
                hr.astype(np.float32), height, width, "bicubic", antialias=True
            )
            lr = np.clip(np.round(small), 0, 255).astype(np.uint8)
        else:
            lr = pair["lr"]
        if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
            raise ValueError(
                f"paired folder {str(source.root)!r}: {pair['id']}: HR {hr.shape[:2]} is not "
                f"{scale} times LR {lr.shape[:2]}"
            )
        yield {"lr": lr, "hr": hr, "id": pair["id"]}


def main() -> None:
    """Measures the training pipeline on one folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--preset", default="medium", choices=list(degradations.PRESETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cache", action="store_true", help="measured after one full epoch")
    args = parser.parse_args()
    try:
        batches = train_iterator(
            args.root,
            batch_size=args.batch,
            crop_size=args.crop,
            preset=args.preset,
            cache=args.cache,
            threads=args.threads,
        )
    except ValueError as error:
        parser.error(str(error))
    warm_up = len(ImageFolder(args.root)) // args.batch + 1 if args.cache else 3
    for _ in range(warm_up):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < args.seconds:
        next(batches)
        count += args.batch
    print(f"{count / elapsed:.1f} examples/s over {elapsed:.1f} s, {args.threads} threads")


if __name__ == "__main__":
    main()
