"""Any image in, restored image out: fixed-shape tiles on the device, the rest on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import PIL.Image

from maskgit_sr.arrays import Params
from maskgit_sr.bundles import Metadata
from maskgit_sr.decoding.policies import CONFIDENCES, Policy
from maskgit_sr.errors import UserError
from maskgit_sr.inference import images
from maskgit_sr.inference.images import Picture
from maskgit_sr.methods.base import Method, Restored, RestoreOptions
from maskgit_sr.ops.color import COLOR_FIXES
from maskgit_sr.ops.tiles import Axis, Blender, pad_reflect, plan_axis

MAX_SCALE = 16.0
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored picture, confidence float32 [H, W] in [0, 1] at input size, and the tokens.

    ``tokens`` is int32 [tile rows, tile columns, h, w].
    """

    picture: Picture
    confidence: np.ndarray | None
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What :meth:`Upscaler.__call__` returns; ``image`` is of the kind that was put in."""

    image: PIL.Image.Image | np.ndarray
    confidence: np.ndarray | None
    tokens: np.ndarray


class Upscaler:
    """A loaded model on one device.

    Device batches have one fixed shape, so one compilation serves every image and device memory
    does not grow with it; the host holds the input, the output and one band of tiles.

    Args:
        batch: tiles a device call; a shorter last batch is filled up.
    """

    def __init__(
        self, method: Method, params: Params, metadata: Metadata, *, batch: int, device: jax.Device
    ):
        if batch < 1:
            raise UserError(f"batch: expected at least 1, found {batch}")
        self.method, self.metadata, self.batch, self.device = method, metadata, batch, device
        self.params = jax.device_put(params, device)
        self._compiled: dict[RestoreOptions, Any] = {}

    def __call__(
        self,
        image: PIL.Image.Image | np.ndarray,
        *,
        scale: float = 4.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        color_fix: str = "adain",
        confidence: bool = True,
        **options: Any,
    ) -> Result:
        """Restores a PIL image of any mode or an array (uint8, uint16, float; 1 to 4 channels).

        Args:
            scale: output side over input side; the network makes ×4, then an antialiased resize.
            steps: decoding steps T; None: the model's own.
            seed: for temperatures above 0; the same seed gives the same image.
            temperature: 0 takes the most likely token.
            color_fix: ``adain``, ``wavelet`` or ``none``.
            confidence: also return the confidence map, at the price of one more critic call.
            **options: ``policy`` ("critic" or "generator"), ``control`` (False: without the
                controlling module), ``progress``.

        Raises:
            UserError: an array of another dtype or shape, or an option out of range.
        """
        picture = (
            images.from_array(image) if isinstance(image, np.ndarray) else images.from_pil(image)
        )
        restored = self.restore(
            picture,
            scale=scale,
            steps=steps,
            seed=seed,
            temperature=temperature,
            color_fix=color_fix,
            confidence=confidence,
            **options,
        )
        out = (
            images.to_array(restored.picture, image)
            if isinstance(image, np.ndarray)
            else images.to_pil(restored.picture)
        )
        return Result(out, restored.confidence, restored.tokens)

    def restore(
        self,
        picture: Picture,
        *,
        scale: float = 4.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        color_fix: str = "adain",
        confidence: bool = True,
        policy: str | None = None,
        control: bool = True,
        progress: Progress | None = None,
    ) -> Restoration:
        """As :meth:`__call__`, for a decoded picture; dtype, alpha, grey, ICC and EXIF are kept."""
        if not 0 < scale <= MAX_SCALE:
            raise UserError(f"scale: expected above 0 and at most {MAX_SCALE:g}, found {scale:g}")
        if color_fix not in COLOR_FIXES:
            raise UserError(
                f"color_fix: expected one of {', '.join(COLOR_FIXES)}, found {color_fix!r}"
            )
        if policy is None:
            policy = "critic" if "critic" in self.params else "generator"
        if policy not in CONFIDENCES:
            raise UserError(f"policy: expected one of {', '.join(CONFIDENCES)}, found {policy!r}")
        config = self.metadata.config
        try:
            rule = Policy(
                config.get("steps", 4) if steps is None else steps,
                policy,
                config.get("schedule", "sqrt"),
                temperature,
                score=confidence,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        options = RestoreOptions(rule, color_fix, control and "control" in self.params)
        height, width = picture.color.shape[:2]
        color, certainty, tokens = self._run(picture.color, options, seed, progress)
        out_height, out_width = (max(1, round(side * scale)) for side in (height, width))
        if (out_height, out_width) != color.shape[:2]:
            color = images.resize(color, out_height, out_width)
        alpha = picture.alpha
        if alpha is not None:
            alpha = images.resize(alpha, out_height, out_width)
        if picture.grey:  # the network's slight tints are not part of a grey picture
            luma = color.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
            color = _quantize(luma / _peak(color.dtype), color.dtype)[..., None].repeat(3, -1)
        return Restoration(
            dataclasses.replace(picture, color=color, alpha=alpha), certainty, tokens
        )

    def _run(
        self, color: np.ndarray, options: RestoreOptions, seed: int, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        tile, scale = self.method.tile, self.method.scale
        rows, columns = (plan_axis(side, tile.size, tile.stride) for side in color.shape[:2])
        height, width = color.shape[:2]
        output = np.empty((height * scale, width * scale, 3), color.dtype)
        blender = Blender(rows, columns, tile.size, scale, 3, tile.variance)
        certainty, certainty_blender = None, None
        if options.policy.score:
            certainty = np.empty((height, width), np.float32)
            certainty_blender = Blender(rows, columns, tile.size, 1, 1, tile.variance)
        tokens: list[np.ndarray] = []
        done, total = 0, len(rows.starts) * len(columns.starts)
        for count, restored in self._batches(color, rows, columns, options, seed):
            for index in range(count):
                for row, band in blender.add(restored.image[index]):
                    output[row : row + len(band)] = _quantize(band, color.dtype)
                if certainty is not None and certainty_blender is not None:
                    cells = restored.confidence[index].repeat(tile.cell, 0).repeat(tile.cell, 1)
                    for row, band in certainty_blender.add(cells[..., None]):
                        certainty[row : row + len(band)] = np.clip(band[..., 0], 0, 1)
            tokens.extend(restored.tokens[:count])
            done += count
            if progress is not None:
                progress(done, total)
        grid = np.stack(tokens).reshape(len(rows.starts), len(columns.starts), *tokens[0].shape)
        return output, certainty, grid

    def _batches(
        self, color: np.ndarray, rows: Axis, columns: Axis, options: RestoreOptions, seed: int
    ) -> Iterator[tuple[int, Any]]:
        """(number of real tiles, results on the host); one batch runs while the last is fetched."""
        size = self.method.tile.size
        padded = pad_reflect(color, rows, columns)
        corners = [(top, left) for top in rows.starts for left in columns.starts]
        run = self._compile(options)
        base = jax.random.key(seed)
        waiting: tuple[int, Restored] | None = None
        for begin in range(0, len(corners), self.batch):
            part = corners[begin : begin + self.batch]
            filled = part + part[-1:] * (self.batch - len(part))
            tiles = np.stack([padded[y : y + size, x : x + size] for y, x in filled])
            indices = np.arange(begin, begin + self.batch, dtype=np.uint32)
            lr = tiles.astype(np.float32) / _peak(color.dtype)
            started = run(self.params, *jax.device_put((lr, indices), self.device), base)
            if waiting is not None:
                yield waiting[0], jax.device_get(waiting[1])
            waiting = len(part), started
        assert waiting is not None
        yield waiting[0], jax.device_get(waiting[1])

    def _compile(self, options: RestoreOptions) -> Any:
        """One compilation for each options; a tile's index in its image seeds its samples."""
        if options not in self._compiled:

            def run(params: Params, lr: jax.Array, indices: jax.Array, key: jax.Array) -> Restored:
                keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
                return self.method.restore(params, lr, keys, options)

            self._compiled[options] = jax.jit(run)
        return self._compiled[options]


def _peak(dtype: Any) -> np.float32:
    return np.float32(1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max)


def _quantize(band: np.ndarray, dtype: Any) -> np.ndarray:
    band = np.clip(band, 0, 1)
    if np.issubdtype(dtype, np.floating):
        return band.astype(dtype)
    return np.rint(band * _peak(dtype)).astype(dtype)
