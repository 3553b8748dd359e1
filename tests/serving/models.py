"""Models whose every output is known, one of which can be watched, held up and broken."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.bundles import Metadata
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import Restored, RestoreOptions, TileSpec, make_options
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.ops.resize import upsample_nearest


@dataclasses.dataclass(frozen=True)
class NearestOptions(RestoreOptions):
    """Some of each type."""

    steps: int = 3
    temperature: float = 0.0
    plain: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")


class Nearest:
    """Restores by pixel repetition, or to noise where the temperature is above 0."""

    name, scale, tile = "nearest", 4, TileSpec((8,), 4)
    provides = frozenset({"confidence", "tokens"})

    def options(self, **given):
        return make_options(NearestOptions, self.name, self.provides, given)

    def restore_windows(self, params, lr, windows, options):
        return self.restore(params, lr, windows.own_keys(), options)

    def restore(self, params, lr, keys, options):
        image = upsample_nearest(lr, 4) if options.plain else 1 - upsample_nearest(lr, 4)
        if options.temperature:
            image = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
        score = lr.mean((1, 2, 3))[:, None, None] * jnp.ones((1, 4, 4))
        tokens = jnp.full((lr.shape[0], 4, 4), options.steps, jnp.int32)
        return Restored(image, score if options.confidence else None, tokens)


class Watched(Upscaler):
    """Keeps the (tiles, options) of its device calls.

    Attributes:
        gate: calls wait until it is set.
        entered: a call has begun.
        breaks: tiles -> whether the call fails.
    """

    def __init__(self, batch, method=None, params=None):
        method = method or Nearest()
        metadata = Metadata(method.name, {}, method.scale)
        super().__init__(method, params or {}, metadata, batch=batch, device=jax.devices("cpu")[0])
        self.calls = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.reset()

    def run(self, lr, places, seeds, options):
        self.calls.append((lr, options))
        self.entered.set()
        assert self.gate.wait(30)
        if self.breaks(lr):
            raise RuntimeError("the device\nis broken")
        return super().run(lr, places, seeds, options)

    def reset(self):
        """Forgets the calls, and neither holds up nor breaks the next."""
        self.breaks = lambda lr: False
        self.calls.clear()
        self.entered.clear()
        self.gate.set()

    def hold(self):
        """From now on calls wait for the gate."""
        self.reset()
        self.gate.clear()


def subpixel(batch):
    """A ×2 method of two sides without tokens and confidence."""
    method = Subpixel()
    params, _ = method.init(jax.random.key(3), method.groups)
    return Watched(batch, method, params)


def pixels(height, width, channels=3, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def enlarged(array, times=4):
    return array.repeat(times, 0).repeat(times, 1)
