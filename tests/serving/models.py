"""A model whose every output is known, and that can be watched, held up and broken."""

import threading

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.bundles import Metadata
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import Restored, TileSpec
from maskgit_sr.ops.resize import upsample_nearest


class Nearest:
    """Restores by pixel repetition, or to noise where the temperature is above 0."""

    name, scale, tile = "nearest", 4, TileSpec(size=8, stride=4)

    def restore(self, params, lr, keys, options):
        image = upsample_nearest(lr, 4)
        if options.policy.temperature:
            image = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
        score = lr.mean((1, 2, 3))[:, None, None] * jnp.ones((1, 4, 4))
        tokens = jnp.zeros((lr.shape[0], 4, 4), jnp.int32)
        return Restored(image, score if options.policy.score else None, tokens)


class Watched(Upscaler):
    """Keeps the (tiles, options) of its device calls.

    Attributes:
        gate: calls wait until it is set.
        entered: a call has begun.
        breaks: tiles -> whether the call fails.
    """

    def __init__(self, batch):
        metadata = Metadata("nearest", {"steps": 3}, 4)
        params = {"critic": {}}
        super().__init__(Nearest(), params, metadata, batch=batch, device=jax.devices("cpu")[0])
        self.calls = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.breaks = lambda lr: False

    def run(self, lr, indices, bases, options):
        self.calls.append((lr, options))
        self.entered.set()
        assert self.gate.wait(30)
        if self.breaks(lr):
            raise RuntimeError("the device\nis broken")
        return super().run(lr, indices, bases, options)

    def hold(self):
        """From now on calls wait for the gate."""
        self.gate.clear()
        self.entered.clear()
        self.calls.clear()


def pixels(height, width, channels=3, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def enlarged(array, times=4):
    return array.repeat(times, 0).repeat(times, 1)
