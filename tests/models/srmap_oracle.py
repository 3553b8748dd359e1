"""SRMAP's public code as an oracle, and the numbers it gave, for tests without it.

    python -m tests.models.srmap_oracle CHECKOUT tests/models/srmap_reference.npz

CHECKOUT is one of r-mohanty/Super-Rez. No weights are stored: `state` makes them from names and
shapes, noise scales and last layers included, which the public initialisation leaves at zero.
"""

import importlib
import itertools
import re
import sys
import types
import zlib
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np

from maskgit_sr.methods.srmap import SRMAPConfig
from maskgit_sr.models.functional import Network, flatten, unflatten
from maskgit_sr.models.srmap_critic import Critic, CriticConfig
from maskgit_sr.models.srmap_generator import GeneratorConfig
from tests.models.golden import read, write

REFERENCE = Path(__file__).with_name("srmap_reference.npz")
# Two stages, every width different from its neighbour's, and a shortcut without a convolution.
TINY = SRMAPConfig(generator=GeneratorConfig(8, (12, 12, 4), (2, 1)))
CRITIC = CriticConfig((8, 8, 12), (1, 2), kernel=6, latent=8)
SIDES = (6, 5)
TEXTS = ("generator/entries", "critic/entries")
ALPHA = GAMMA = 10.0


def load(checkout):
    """The modules `networks`, `losses` and `common` of a checkout."""
    source = str(Path(checkout) / "src")
    with mock.patch.object(sys, "path", [source, *sys.path]):
        # Both of its packages import the whole of what training needs.
        for name in ("model", "loss"):
            package = types.ModuleType(name)
            package.__path__ = [str(Path(source) / name)]
            sys.modules[name] = package
        return types.SimpleNamespace(
            networks=importlib.import_module("model.NetworksV2"),
            common=importlib.import_module("model.common"),
            losses=importlib.import_module("loss.LossV2"),
        )


def generator(oracle, config):
    """The public generator between its mean shifts."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.sub_mean = oracle.common.MeanShift(255)
            self.Main = oracle.networks.Generator(
                config.stem, list(config.features), list(config.blocks), config.compression
            )
            self.add_mean = oracle.common.MeanShift(255, sign=1)

        def forward(self, x):
            return self.add_mean(self.Main(self.sub_mean(x)))

    return Wrapped().eval()


def critic(oracle, config):
    """The public critic."""
    return oracle.networks.Discriminator(
        config.kernel,
        config.latent,
        config.widths[-1],
        list(config.widths[:-1]),
        list(config.blocks),
        config.compression,
    ).eval()


def listing(module):
    """Name and shape of every entry."""
    return [[name, list(tensor.shape)] for name, tensor in module.state_dict().items()]


def state(entries):
    """Arrays for a listing, the same for the same names and shapes; None for fixed ones."""
    found = {}
    for name, shape in entries:
        if name.endswith("Kernel") or "_mean" in name:
            continue
        random = np.random.RandomState(zlib.crc32(name.encode()))
        deviation = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.2
        # What is added to the image in levels of 255 is as large as an image's contrast.
        if "ToRGB" in name:
            deviation *= 0.5
        found[name] = (deviation * random.standard_normal(shape)).astype(np.float32)
    return found


def filled(module, arrays):
    """The module with those arrays."""
    import torch

    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    module.load_state_dict(module.state_dict() | given)
    return module


def image(height, width, batch=2, seed=0):
    """Images in [0, 1], channels last."""
    random = np.random.RandomState(seed)
    return random.uniform(0, 1, (batch, height, width, 3)).astype(np.float32)


def normals(number, shape):
    """What both sides add, without its scale, by the number of the public draw."""
    return np.random.RandomState(100 + number).standard_normal(shape).astype(np.float32)


def drawn(config, batch, height, width):
    """The noise of `normals` without scales, each draw of ours joined."""
    shape, numbers = config.generator, iter(range(1 << 16))

    def draw(factor, *widths):
        sides = (batch, factor * height, factor * width)
        return np.concatenate([normals(next(numbers), (*sides, w)) for w in widths], -1)

    found = [draw(1, shape.stem)]
    inner = shape.stem // shape.compression
    for blocks in shape.blocks:
        found.append(np.concatenate([draw(1, inner, shape.stem) for _ in range(blocks)], -1))
    found.append(draw(1, shape.features[0]))
    for index, (before, out) in enumerate(itertools.pairwise(shape.features)):
        inner = before // shape.compression
        found += [draw(2**index, inner), draw(2 ** (index + 1), inner, out)]
    return found


def draw(config, batch, height, width):
    """`drawn` as what `NoiseScales` takes."""
    given = drawn(config, batch, height, width)
    return lambda number, _: lambda first, count: given[number][..., first : first + count]


# Our names of the critic → theirs, applied in order.
_CRITIC = (
    (r"^stem/kernel", "FromRGB.weight"),
    (r"^stages/(\d+)/(\d+)/", r"MainLayers.\1.BlockList.\2."),
    (r"conv(\d)/kernel", r"LinearLayer\1.weight"),
    (r"shortcut/kernel", "ShortcutLayer.weight"),
    (r"^activation(\d)/", r"EpilogLayer.NonLinearity\1."),
    (r"activation(\d)/", r"NonLinearity\1."),
    (r"bias$", "Bias"),
    (r"^pool$", "EpilogLayer.LinearLayer1.weight"),
    (r"^latent$", "EpilogLayer.LinearLayer2.weight"),
    (r"^score_Bias$", "CriticLayer.bias"),
    (r"^score$", "CriticLayer.weight"),
)


def critic_names(config):
    """Our names of the critic's parameters by the public entries."""
    found = {}
    for name in flatten(critic_network(config).shapes):
        theirs = name
        for pattern, replacement in _CRITIC:
            theirs = re.sub(pattern, replacement, theirs)
        found[theirs] = name
    return found


def critic_network(config):
    """Our critic."""
    return Network(lambda rngs: Critic(config, dtype=jnp.float32, rngs=rngs))


def critic_params(arrays, config):
    """Our critic's parameters of public arrays."""
    shapes = flatten(critic_network(config).shapes)
    found = {}
    for entry, name in critic_names(config).items():
        array = arrays[entry]
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif name == "latent":
            array = array.T
        found[name] = np.ascontiguousarray(array).reshape(shapes[name].shape)
    return unflatten(found)


def as_public(array, shape):
    """One of our arrays in the layout of a public entry of that shape."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 3:  # the depthwise kernel
        array = array.transpose(2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    return array.reshape(shape)


def first(array):
    """A NumPy array with channels last as a tensor with channels first."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def last(tensor):
    """The inverse of `first`."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def given_noise(oracle):
    """Patches the public sampler, which then gives `normals` in the order of its calls."""
    calls = iter(range(1 << 16))

    def sampler(x):
        b, c, h, w = x.shape
        return first(normals(next(calls), (b, h, w, c)))

    return mock.patch.object(oracle.networks.NoiseInjector, "Sampler", staticmethod(sampler))


def generate(oracle, module, lr):
    """(image in [0, 1], features to be enlarged after the stem and each stage)."""
    features = []

    def keep(_, inputs, outputs):
        # Later stages are added in place.
        features.append(last(outputs[2].clone()))

    hooks = [part.register_forward_hook(keep) for part in (module.Main.Stem, *module.Main.Stages)]
    import torch

    with given_noise(oracle), torch.no_grad():
        found = last(module(first(lr * np.float32(255)))) / np.float32(255)
    for hook in hooks:
        hook.remove()
    return found, np.cumsum(features, axis=0)


def judge(module, images, penalty=None):
    """(scores, their gradient in images of [0, 1], R1's gradient in the entries by name)."""
    import torch

    given = first(images * np.float32(255)).requires_grad_()
    scores = module(given)
    (gradient,) = torch.autograd.grad(scores.sum(), given, create_graph=True)
    found = None
    if penalty is not None:
        module.zero_grad()
        (GAMMA * penalty(given, module(given))).backward()
        named = module.named_parameters()
        # Copies, because later gradients are added to the same arrays.
        found = {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}
    return scores.detach().numpy(), 255 * last(gradient), found


def losses(oracle, generator_module, critic_module, lr, hr):
    """The losses of one batch, and the generator's gradient by entry."""
    import torch

    low, high = first(lr * np.float32(255)), first(hr * np.float32(255))
    with given_noise(oracle):
        fake = generator_module(low)
    real_scores, fake_scores = critic_module(high), critic_module(fake)
    fidelity = oracle.losses.FidelityLoss(fake, low)
    better = oracle.losses.RelativisticLoss(fake_scores, real_scores)
    generator_module.zero_grad()
    (ALPHA * fidelity + better).backward()
    gradients = {
        name: p.grad.numpy() for name, p in generator_module.named_parameters() if p.requires_grad
    }
    high.requires_grad_()
    scores = critic_module(high)
    penalty = GAMMA * oracle.losses.ZeroCenteredGradientPenalty(high, scores)
    worse = oracle.losses.RelativisticLoss(scores, fake_scores.detach())
    with torch.no_grad():
        named = dict(fidelity=ALPHA * fidelity, generator=better, critic=worse, penalty=penalty)
        return {name: np.float32(value.item()) for name, value in named.items()}, gradients


# Gradients that are stored: one of each kind of layer.
GENERATOR_GRADIENTS = (
    "Main.Stem.LinearLayer.weight",
    "Main.Stages.0.MainBlocks.1.LinearLayer1.weight",
    "Main.Stages.0.MainBlocks.1.NoiseLayer2.Scale",
    "Main.Stages.1.ToFeatures.weight",
    "Main.Upsamplers.1.LinearLayer2.weight",
    "Main.Upsamplers.0.NonLinearity3.Bias",
    "Main.Upsamplers.0.NoiseLayer1.Scale",
    "Main.ToRGB.0.weight",
)
CRITIC_GRADIENTS = (
    "FromRGB.weight",
    "MainLayers.1.BlockList.0.LinearLayer2.weight",
    "MainLayers.1.BlockList.1.NonLinearity1.Bias",
    "MainLayers.1.BlockList.0.ShortcutLayer.weight",
    "EpilogLayer.LinearLayer1.weight",
    "EpilogLayer.LinearLayer2.weight",
    "CriticLayer.weight",
)


def outputs(oracle):
    """Everything that is stored, by name."""
    import torch

    made, judged = generator(oracle, TINY.generator), critic(oracle, CRITIC)
    found = {"generator/entries": listing(made), "critic/entries": listing(judged)}
    filled(made, state(found["generator/entries"]))
    filled(judged, state(found["critic/entries"]))
    found["generator"], features = generate(oracle, made, image(*SIDES))
    found |= {f"features/{stage}": feature for stage, feature in enumerate(features)}
    side = CRITIC.side
    penalty = oracle.losses.ZeroCenteredGradientPenalty
    scores, gradient, second = judge(judged, image(side, side), penalty)
    found |= {"critic/scores": scores, "critic/gradient": gradient}
    found |= {f"penalty/{name}": second[name] for name in CRITIC_GRADIENTS}
    hr = image(side, side, seed=3)
    values, gradients = losses(oracle, made, judged, image(side // 4, side // 4, seed=2), hr)
    found |= {f"loss/{name}": value for name, value in values.items()}
    found |= {f"map/{name}": gradients[name] for name in GENERATOR_GRADIENTS}
    for index, (height, width) in enumerate(((5, 8), (6, 4))):
        x = first(np.tile(image(height, width, 1), 4))
        with torch.no_grad():
            found[f"up/{index}"] = last(oracle.networks.Upsampler()(x))
            if height % 2 == 0:
                found[f"down/{index}"] = last(oracle.networks.Downsampler()(x))
    return found


def golden():
    """The stored numbers."""
    return read(REFERENCE, TEXTS)


def main(checkout, target):
    write(target, outputs(load(checkout)), TEXTS)


if __name__ == "__main__":
    main(*sys.argv[1:])
