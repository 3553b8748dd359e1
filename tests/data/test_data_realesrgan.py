"""data.degradations: "realesrgan" draws what the paper's and the released settings' table says."""

import math
from types import SimpleNamespace

import pytest

from data import chain as c
from tests.data.draws import (
    SIDE,
    assert_equally_often,
    assert_factors,
    assert_noise,
    assert_share,
    assert_uniform,
    draws,
)


def parse(record):
    """The parts of a record of "realesrgan" by their place in the chain."""
    steps = list(record.steps)

    def take(kind, index=0):
        assert isinstance(steps[index], kind), str(record)
        return steps.pop(index)

    def take_if(kind):
        return take(kind) if steps and isinstance(steps[0], kind) else None

    noises = (c.GaussianNoise, c.PoissonNoise)
    assert take(c.Sharpen) == c.Sharpen(0.5, 50, 10)
    first = SimpleNamespace(blur=take(c.Blur).kernel, resize=take_if(c.Resize))
    first.noise, first.jpeg = take(noises), take(c.Jpeg).quality
    blur = take_if(c.Blur)
    second = SimpleNamespace(blur=blur and blur.kernel, resize=take(c.Resize), noise=take(noises))
    jpeg_last = isinstance(steps[0], c.Resize)
    second.jpeg = take(c.Jpeg, -1 if jpeg_last else 0).quality
    final, sinc = take(c.Resize), take_if(c.Blur)
    assert not steps, str(record)
    return SimpleNamespace(
        first=first, second=second, jpeg_last=jpeg_last, final=final, sinc=sinc and sinc.kernel
    )


@pytest.fixture(scope="module")
def drawn():
    return [parse(record) for record in draws("realesrgan", 3000)]


ORDERS = pytest.mark.parametrize(
    ("order", "sigma"), [("first", (0.2, 3.0)), ("second", (0.2, 1.5))]
)
SIZES = range(7, 22, 2)
KERNELS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # isotropic, anisotropic of each of the shapes


@ORDERS
def test_realesrgan_kernels(drawn, order, sigma):
    kernels = [kernel for r in drawn if (kernel := getattr(r, order).blur)]
    assert_equally_often((kernel.size for kernel in kernels), SIZES)
    sinc = [kernel for kernel in kernels if kernel.shape == "sinc"]
    assert_share((kernel.shape == "sinc" for kernel in kernels), 0.1)
    assert_uniform([k.cutoff for k in sinc if k.size < 13], math.pi / 3, math.pi)
    assert_uniform([k.cutoff for k in sinc if k.size >= 13], math.pi / 5, math.pi)
    assert min(k.cutoff for k in sinc if k.size == 13) < math.pi / 3  # 13 is one of the large

    others = [kernel for kernel in kernels if kernel.shape != "sinc"]
    kinds = [(kernel.shape, kernel.sigma_x != kernel.sigma_y) for kernel in others]
    names = [(s, a) for s in ("gaussian", "generalized", "plateau") for a in (False, True)]
    assert set(kinds) == set(names)
    for name, probability in zip(names, KERNELS, strict=True):
        assert_share((kind == name for kind in kinds), probability)
    assert_uniform([kernel.sigma_x for kernel in others], *sigma)
    turned = [kernel for kernel in others if kernel.sigma_x != kernel.sigma_y]
    assert_uniform([kernel.sigma_y for kernel in turned], *sigma)
    assert_uniform([kernel.theta for kernel in turned], -math.pi, math.pi)
    assert all(k.theta == 0 for k in others if k.sigma_x == k.sigma_y)
    assert not any(kernel.offset for kernel in kernels)

    assert all(k.beta == 1 for k in others if k.shape == "gaussian")
    for shape, low, high in (("generalized", 0.5, 4.0), ("plateau", 1.0, 2.0)):
        betas = [kernel.beta for kernel in others if kernel.shape == shape]
        assert_share((beta > 1 for beta in betas), 0.5)  # a plateau's lower half is all ones
        assert_uniform([beta for beta in betas if beta > 1], 1, high)
        if low < 1:
            assert_uniform([beta for beta in betas if beta < 1], low, 1)
        else:
            assert {beta for beta in betas if beta <= 1} == {1}


def test_realesrgan_resizes(drawn):
    factors = [r.first.resize.factor if r.first.resize else 1.0 for r in drawn]
    for r, factor in zip(drawn, factors, strict=True):
        if r.first.resize:
            assert (r.first.resize.height, r.first.resize.width) == (int(SIDE * factor),) * 2
    seconds = [r.second.resize.height / (SIDE // 4) for r in drawn]
    assert all(r.second.resize.height == r.second.resize.width for r in drawn)
    assert_factors(factors, 0.2, 0.7, 0.15, 1.5)
    assert_factors(seconds, 0.3, 0.4, 0.3, 1.2)
    resizes = [r.first.resize for r in drawn if r.first.resize]
    for steps in (resizes, [r.second.resize for r in drawn], [r.final for r in drawn]):
        assert_equally_often((step.mode for step in steps), ("adaptive", "bilinear", "bicubic"))
        assert not any(step.antialias for step in steps)


@pytest.mark.parametrize(
    ("order", "sigma", "scale"),
    [("first", (1.0, 30.0), (0.05, 3.0)), ("second", (1.0, 25.0), (0.05, 2.5))],
)
def test_realesrgan_noise_and_jpeg(drawn, order, sigma, scale):
    parts = [getattr(r, order) for r in drawn]
    assert_noise([part.noise for part in parts], 0.5, sigma, scale)
    assert_equally_often((part.jpeg for part in parts), range(30, 96))


def test_realesrgan_second_blur_and_the_end_of_the_chain(drawn):
    assert_share((r.second.blur is not None for r in drawn), 0.8)
    assert_share((r.jpeg_last for r in drawn), 0.5)
    assert_share((r.sinc is not None for r in drawn), 0.8)
    assert all((r.final.height, r.final.width) == (SIDE // 4,) * 2 for r in drawn)
    sinc = [r.sinc for r in drawn if r.sinc]
    assert all(kernel.shape == "sinc" for kernel in sinc)
    assert_equally_often((kernel.size for kernel in sinc), SIZES)
    assert_uniform([kernel.cutoff for kernel in sinc], math.pi / 3, math.pi)
    # What is independent in the paper is so here: no generator is shared between choices.
    assert_share((r.jpeg_last for r in drawn if r.sinc), 0.5)
    assert_share((r.second.blur is not None for r in drawn if r.jpeg_last), 0.8)
