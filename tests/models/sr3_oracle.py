"""SR3's public re-implementation as an oracle, and the numbers it gave, for tests without it.

    python -m tests.models.sr3_oracle CHECKOUT tests/models/sr3_reference.npz

CHECKOUT is one of Janspiry/Image-Super-Resolution-via-Iterative-Refinement. No weights are stored:
`state` makes them from names and shapes.
"""

import importlib.util
import sys
import types
import zlib
from pathlib import Path
from unittest import mock

import numpy as np

from maskgit_sr.convert.sr3 import PUBLISHED
from maskgit_sr.models.sr3_unet import UNetConfig
from maskgit_sr.ops import diffusion
from tests.models.golden import read, write

REFERENCE = Path(__file__).with_name("sr3_reference.npz")
# Attention on the coarse level and in the middle; every width differs from its neighbour's.
TINY = UNetConfig(8, (1, 2), 1, (1,), True, 4, 0.0, level_scale=1.0)
LEVELS = np.sqrt([1e-4, 0.3, 0.999]).astype(np.float32)
STEPS = 20
TEXTS = ("entries", "published")
SCHEDULE = dict(start=1e-6, end=0.71)


def load(checkout):
    """The modules `unet` and `diffusion` of a checkout."""
    modules = types.SimpleNamespace()
    for name in ("unet", "diffusion"):
        path = Path(checkout) / "model" / "sr3_modules" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"sr3_public_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(modules, name, module)
    return modules


def unet(oracle, config):
    """The public network; where attention is follows from the size that it is told."""
    side = 2 ** len(config.multipliers) * 8
    return oracle.unet.UNet(
        inner_channel=config.width,
        norm_groups=config.groups,
        channel_mults=config.multipliers,
        attn_res=[side >> level for level in config.attention],
        res_blocks=config.blocks,
        dropout=config.dropout,
        image_size=side,
        out_channel=3,
    )


def model(oracle, config, steps=STEPS, loss="l1"):
    """The public diffusion over a U-Net, with the schedule of `SCHEDULE`."""
    import torch

    found = oracle.diffusion.GaussianDiffusion(unet(oracle, config), 8, loss_type=loss)
    found.set_loss("cpu")
    found.set_new_noise_schedule(
        dict(
            schedule="linear",
            n_timestep=steps,
            linear_start=SCHEDULE["start"],
            linear_end=SCHEDULE["end"],
        ),
        torch.device("cpu"),
    )
    return found.eval()


def listing(module):
    """Name and shape of every entry of the network."""
    entries = {n: list(t.shape) for n, t in module.state_dict().items() if n.startswith("denoise")}
    return [[name, shape] for name, shape in entries.items()]


def published(oracle):
    """Listings of the networks of the published checkpoints, which are never allocated."""
    import torch

    with torch.device("meta"):
        return {
            name: [
                [f"denoise_fn.{entry}", list(tensor.shape)]
                for entry, tensor in unet(oracle, found.unet).state_dict().items()
            ]
            for name, found in PUBLISHED.items()
        }


def state(entries):
    """Arrays for a listing, the same for the same names and shapes, none of them zero."""
    found = {}
    for name, shape in entries:
        random = np.random.RandomState(zlib.crc32(name.encode()))
        deviation = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.2
        mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        found[name] = (mean + deviation * random.standard_normal(shape)).astype(np.float32)
    return found


def filled(module, arrays):
    """The module with those arrays."""
    import torch

    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    module.load_state_dict(module.state_dict() | given)
    return module


def inputs(sides, batch=2, seed=0):
    """(condition, image, noise) in channels-last, float32: two in [-1, 1], one normal."""
    random = np.random.RandomState(seed)
    condition, image = random.uniform(-1, 1, (2, batch, *sides, 3)).astype(np.float32)
    return condition, image, random.standard_normal(image.shape).astype(np.float32)


def chain_noise(shape, seed=1):
    """Noise of a chain: what it starts from, and each step's, the noisiest first."""
    random = np.random.RandomState(seed)
    return random.standard_normal((STEPS + 1, *shape)).astype(np.float32)


def first(array):
    """A NumPy array with channels last as a tensor with channels first."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def last(tensor):
    """The inverse of `first`."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def noise_estimate(module, condition, noisy, level):
    """The public network's estimate for one level of the whole batch."""
    import torch

    given = torch.cat([first(condition), first(noisy)], dim=1)
    levels = torch.full((len(noisy), 1), float(level))
    with torch.no_grad():
        return last(module.denoise_fn(given, levels))


def reverse(module, condition, y, steps, noises, clip=True):
    """The public chain from y through ``steps``, falling, with given noise."""
    import torch

    found = first(y)
    with torch.no_grad():
        for step, noise in zip(steps, noises, strict=True):
            with mock.patch.object(torch, "randn_like", lambda x, n=noise: first(n)):
                found = module.p_sample(found, step, clip, first(condition))
    return last(found)


def loss(module, condition, image, noise, level):
    """The public training loss, as its trainer divides it, for given level √γ and noise."""
    import torch

    with (
        mock.patch.object(np.random, "uniform", lambda *a, size: np.full(size, level)),
        torch.no_grad(),
    ):
        total = module.p_losses({"HR": first(image), "SR": first(condition)}, noise=first(noise))
    return np.float32(total.item() / image.size)


def outputs(oracle):
    """Everything that is stored, by name."""
    module = model(oracle, TINY)
    entries = listing(module)
    filled(module, state(entries))
    condition, image, noise = inputs((8, 12))
    found = {"entries": entries, "published": published(oracle)}
    for index, level in enumerate(LEVELS):
        found[f"unet/{index}"] = noise_estimate(module, condition, image, level)
    for clip in (False, True):
        given = [noise]
        found[f"step/{int(clip)}"] = reverse(module, condition, image, [7], given, clip)
    noises = chain_noise(image.shape)
    steps = range(STEPS - 1, -1, -1)
    found["chain"] = reverse(module, condition, noises[0], steps, noises[1:])
    for kind in ("l1", "l2"):
        other = filled(model(oracle, TINY, loss=kind), state(entries))
        found[f"loss/{kind}"] = loss(other, condition, image, noise, 0.6)
    for kind in diffusion.KINDS:
        betas = oracle.diffusion.make_beta_schedule(kind, 40, 1e-4, 0.2)
        found[f"betas/{kind}"] = np.asarray(betas, np.float64)
    return found


def golden():
    """The stored numbers."""
    return read(REFERENCE, TEXTS)


def main(checkout, target):
    write(target, outputs(load(checkout)), TEXTS)


if __name__ == "__main__":
    main(*sys.argv[1:])
