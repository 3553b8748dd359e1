"""Every registered method, small enough for a test, and what its stages must satisfy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.methods import registry
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.iter import ITERConfig
from maskgit_sr.methods.iter_training import ITER, ITERLosses
from maskgit_sr.methods.iter_variants import ITERConv, ITERConvConfig
from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.realsrt import RealSRT
from maskgit_sr.methods.realsrt_variants import RealSRTTuned, TunedLosses
from maskgit_sr.methods.sr3 import SR3, SR3Regression
from maskgit_sr.methods.sr3_base import SR3Config
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting
from maskgit_sr.methods.srmap import SRMAP, SRMAPConfig, SRMAPLosses
from maskgit_sr.methods.structure import DistilLosses, Structure, StructureMethodConfig
from maskgit_sr.methods.subpixel import Subpixel, SubpixelConfig
from maskgit_sr.methods.vq import VQLossConfig
from maskgit_sr.models.discriminator import DiscriminatorConfig
from maskgit_sr.models.maskgit_transformer import MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGANConfig
from maskgit_sr.models.sr3_unet import UNetConfig
from maskgit_sr.models.srmap_critic import CriticConfig
from maskgit_sr.models.srmap_generator import GeneratorConfig
from maskgit_sr.models.structure import StructureConfig
from maskgit_sr.models.swin import SwinConfig
from maskgit_sr.models.swin_vqgan import SwinVQGANConfig
from maskgit_sr.models.token_swin import RemovalConfig, TokenSwinConfig
from maskgit_sr.models.unet_discriminator import UNetDiscriminatorConfig
from maskgit_sr.training import weights


def fields(value):
    """A dataclass's fields as keyword arguments of one that derives from it."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def build(name, tiny, losses, **changes):
    """The method of that name over the tiny networks, with changed losses."""
    if name == Subpixel.name:
        return Subpixel(SubpixelConfig(TileSpec((8, 16), 4)))
    losses = dataclasses.replace(losses, **changes)
    if name == Structure.name:
        network = StructureConfig(width=8, depth=2)
        kept = {f.name for f in dataclasses.fields(DistilLosses)} & fields(losses).keys()
        own = DistilLosses(**{name: getattr(losses, name) for name in kept})
        return Structure(StructureMethodConfig(TileSpec((8, 16), 4), network), own)
    if name in (SR3.name, SR3Regression.name):
        return registry.METHODS[name](sr3(tile=TileSpec((8,), 4, 0.0)))
    if name == SRMAP.name:
        critic = CriticConfig((4, 8), (2,), kernel=16, latent=4)
        return SRMAP(srmap(), SRMAPLosses(critic=critic))
    if name in (Correction.name, Inpainting.name):
        own = MaskGITLosses(
            perceptual="none",
            perceptual_weight=0.0,
            discriminator=DiscriminatorConfig(8, 1, norms=False),
            joined=0.5,
        )
        return registry.METHODS[name](maskgit(name, control=name == Correction.name), own)
    if name == ITER.name:
        own = ITERLosses(
            perceptual="none", perceptual_weight=0.0, discriminator=UNetDiscriminatorConfig(4)
        )
        return ITER(iter_config(), own)
    if name == ITERConv.name:
        kept = {f.name for f in dataclasses.fields(VQLossConfig)} & fields(losses).keys()
        own = VQLossConfig(**{name: getattr(losses, name) for name in kept})
        return ITERConv(iter_config(ITERConvConfig, tokenizer=tiny.tokenizer), own)
    if name == RealSRT.name:
        return RealSRT(tiny, losses)
    if name == RealSRTTuned.name:
        return RealSRTTuned(tiny, TunedLosses(**fields(losses)))
    raise AssertionError(f"{name}: give it a small configuration here")


def sr3(**changes):
    """×2, 8- and 16-pixel LR windows, two levels."""
    settings = dict(
        scale=2,
        tile=TileSpec((8, 16), 4, 0.0),
        unet=UNetConfig(8, (1, 2), 1, (), False, 4, 0.0),
    )
    return SR3Config(**settings | changes)


def srmap(**changes):
    """×2, 8- and 16-pixel LR windows, two stages of a block."""
    generator = GeneratorConfig(8, (8, 4), (1, 1), levels=4.0)
    return SRMAPConfig(**dict(tile=TileSpec((8, 16), 4, 0.0), generator=generator) | changes)


def maskgit(name=Inpainting.name, **changes):
    """A 16-pixel LR window, a 4×4 token grid of 2×2 cells, 16 codes."""
    settings = dict(
        tokenizer=MaskGITVQGANConfig(
            width=8, multipliers=(1, 1, 1, 2), blocks=1, code_width=8, codes=16, groups=4
        ),
        transformer=MaskGITTransformerConfig(
            codes=16, classes=0, positions=17, dim=16, depth=1, heads=2, inner=32
        ),
        overlap=8,
    )
    if name == Inpainting.name:
        settings["cell"] = 2
    return registry.METHODS[name].config_class(**settings | changes)


def iter_config(cls=ITERConfig, **changes):
    """A 16-pixel LR window at ×4, an 8×8 token grid of 4×4 windows, 16 codes."""
    swin = SwinConfig(dim=16, blocks=1, heads=2, window=4, ratio=2, squeeze=4)
    token = TokenSwinConfig(swin, groups=4)
    settings = dict(
        tokenizer=SwinVQGANConfig(
            channels=(8, 8, 8, 16), blocks=1, swin=swin, code_width=8, codes=16, groups=4
        ),
        encoder=RemovalConfig(stem=8, width=16, swin=swin, groups=4),
        refinement=token,
        evaluation=token,
        tile=TileSpec((16,), 4, 0.0),
        steps=4,
        alpha=1.0,  # else random networks may find every token right
    )
    return cls(**settings | changes)


def random_params(method):
    """Parameters of every bundle group, none of them zero, without compiling their init."""
    rng = np.random.default_rng(0)

    def fill(shape):
        if len(shape.shape) == 1:  # norm scales and biases alike
            return jnp.asarray(rng.uniform(0.5, 1, shape.shape), jnp.float32)
        deviation = np.prod(shape.shape[:-1]) ** -0.5
        return jnp.asarray(rng.normal(0, deviation, shape.shape), jnp.float32)

    return jax.tree.map(fill, method.shapes())


def shape_of(tree):
    """Shapes of a tree's leaves."""
    return jax.tree.map(lambda x: x.shape, tree)


def check_stage(method, stage, batch):
    """Losses, gradients, panel and exports of a stage by shape alone; nothing is computed.

    Args:
        batch: arrays of an example, as shapes.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = method.shapes()
    fresh = tuple(dict.fromkeys((*method.groups, *(g for g in stage.trains if "/" not in g))))
    params, stats = jax.eval_shape(lambda: method.init(jax.random.key(0), fresh))
    frozen = {name: make() for name, make in stage.frozen.items()}
    ready = jax.eval_shape(stage.start, params)
    inputs = {name: batch[name] for name in stage.batch}
    for phase in stage.phases:
        trained = {path: weights.part(ready, path) for path in phase.groups}

        def run(ready, trained, stats, inputs, key, phase=phase):
            def loss(trained):
                everything = weights.merged({**ready, **frozen}, trained)
                return phase.loss(everything, stats, inputs, key, jnp.int32(0))

            return jax.grad(loss, has_aux=True)(trained)

        grads, result = jax.eval_shape(run, ready, trained, stats, inputs, key)
        assert shape_of(grads) == shape_of(trained)
        assert shape_of(result.stats) == shape_of(stats)
        assert {x.shape for x in result.metrics.values()} == {()}
        inputs |= result.carry
    exported = jax.eval_shape(stage.finish, ready, stats)
    for group in stage.exports:
        assert shape_of(exported[group]) == shape_of(shapes[group])
    panel = jax.eval_shape(stage.panel, exported, batch, key)
    assert {"hr", "output"} <= panel.keys()
    assert {image.shape for image in panel.values()} == {batch["hr"].shape}
