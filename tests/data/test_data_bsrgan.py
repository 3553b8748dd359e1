"""data.degradations: "bsrgan" draws what its released code does, in an order that works."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from data import chain as c
from data import degradations as d
from tests.data.draws import SIDE, assert_equally_often, assert_share, assert_uniform, draws, of

scales = pytest.mark.parametrize("scale", [2, 3, 4])


def parse_bsrgan(record):
    """The parts of a record of "bsrgan"; `rest` is the reduction that a halving leaves to do."""
    steps = list(record.steps)
    halved = steps.pop(0) if len(of(c.Resize, [record])) == 3 else None
    resizes = [step for step in steps if isinstance(step, c.Resize)]
    shifted = None
    if resizes[0].mode == "nearest":  # with the blur before it, one step of the shuffle
        shifted = steps.pop(steps.index(resizes[0]) - 1).kernel
    return SimpleNamespace(
        halved=halved,
        rest=2 if halved else record.scale,
        shifted=shifted,
        reduce=resizes[0],
        finish=resizes[1],
        names=[type(step).__name__ for step in steps],
        kernels=[step.kernel for step in steps if isinstance(step, c.Blur)],
        noises=[step for step in steps if isinstance(step, (c.GaussianNoise, c.CorrelatedNoise))],
        jpegs=[step.quality for step in steps if isinstance(step, c.Jpeg)],
    )


@pytest.fixture(scope="module")
def shuffled():
    return {scale: list(map(parse_bsrgan, draws("bsrgan", 800, scale))) for scale in (2, 4)}


@scales
def test_bsrgan_order_of_steps(scale):
    side = 12 * 2**16
    small = side // scale
    chains = [parse_bsrgan(record) for record in draws("bsrgan", 600, scale, side)]
    for chain in chains:
        assert chain.names[-1] == "Jpeg" and len(chain.jpegs) in (1, 2)
        assert len(chain.kernels) == 2 and len(chain.noises) == 1
        # "finish" comes second: it makes the LR size, whatever size was drawn before.
        assert (chain.finish.height, chain.finish.width) == (small, small)
        assert chain.finish.mode in ("area", "bilinear", "bicubic") and not chain.finish.antialias
        assert chain.reduce.height == chain.reduce.width
        assert (chain.reduce.height == small) == (chain.shifted is not None)
    assert_share((len(chain.jpegs) == 2 for chain in chains), 0.9)
    full = [chain.names[:6] for chain in chains if len(chain.jpegs) == 2]
    # A shuffle of two blurs, two reductions, noise and JPEG: as often in any place.
    for place in (0, 5):
        assert_share((names[place] == "Blur" for names in full), 1 / 3)
        assert_share((names[place] == "Resize" for names in full), 1 / 3)
        assert_share((names[place] == "Jpeg" for names in full), 1 / 6)
        assert_share((names[place].endswith("Noise") for names in full), 1 / 6)


@pytest.mark.parametrize("scale", [2, 4])
def test_bsrgan_reductions(shuffled, scale):
    chains = shuffled[scale]
    halved = [chain.halved for chain in chains if chain.halved]
    if scale == 4:
        assert_share((chain.halved is not None for chain in chains), 0.25)
        assert {(step.height, step.width) for step in halved} == {(SIDE // 2, SIDE // 2)}
        assert_share((step.antialias for step in halved), 0.5)
        assert {step.mode for step in halved} == {"area", "bilinear", "bicubic"}
    else:
        assert not halved
    assert_share((chain.shifted is None for chain in chains), 0.75)
    for rest in {chain.rest for chain in chains}:
        side = SIDE * rest // scale  # after the halving
        these = [chain for chain in chains if chain.rest == rest]
        plain = [chain.reduce for chain in these if not chain.shifted]
        assert_uniform([side / step.height for step in plain], 1, 2 * rest + 1e-4)
        assert_equally_often((step.mode for step in plain), ("area", "bilinear", "bicubic"))
        shifted = [chain.shifted for chain in these if chain.shifted]
        assert {(kernel.size, kernel.offset) for kernel in shifted} == {(25, (rest - 1) / 2)}
        assert_uniform([kernel.sigma_x for kernel in shifted], 0.1, 0.6 * rest)


@pytest.mark.parametrize("scale", [2, 4])
def test_bsrgan_kernels_noise_and_jpeg(shuffled, scale):
    kernels = [(k, chain.rest) for chain in shuffled[scale] for k in chain.kernels]
    assert {kernel.shape for kernel, _ in kernels} == {"gaussian"}
    assert_equally_often((kernel.size for kernel, _ in kernels), range(7, 26, 2))
    assert_share((kernel.sigma_x != kernel.sigma_y for kernel, _ in kernels), 0.5)
    for rest in {rest for _, rest in kernels}:
        these = [kernel for kernel, r in kernels if r == rest]
        turned = [kernel for kernel in these if kernel.sigma_x != kernel.sigma_y]
        variances = [s**2 for kernel in turned for s in (kernel.sigma_x, kernel.sigma_y)]
        assert_uniform(variances, 1e-3, 4 + rest)
        assert_uniform([kernel.theta for kernel in turned], 0, math.pi)
        straight = [kernel.sigma_x for kernel in these if kernel.sigma_x == kernel.sigma_y]
        assert_uniform(straight, 0.01, 2 + 0.2 * rest)

    noises = [noise for chain in shuffled[scale] for noise in chain.noises]
    gaussian = [noise for noise in noises if isinstance(noise, c.GaussianNoise)]
    assert_share((isinstance(noise, c.CorrelatedNoise) for noise in noises), 0.2)
    assert_share((noise.grey for noise in gaussian), 0.5)
    assert_equally_often((noise.sigma for noise in gaussian), range(2, 26))
    for noise in noises:
        if isinstance(noise, c.CorrelatedNoise):
            covariance = np.array(noise.covariance)
            np.testing.assert_allclose(covariance, covariance.T, atol=1e-9)
            assert covariance.min() >= 0 and covariance.max() <= 25**2
    jpegs = [quality for chain in shuffled[scale] for quality in chain.jpegs]
    assert_equally_often(jpegs, range(30, 96))


@pytest.mark.parametrize("rest", [2, 3, 4])
def test_bsrgan_decimation_stays_in_place(rest):
    """The shifted kernel is centred on the block whose first pixel is then taken."""
    slope = np.arange(60, dtype=np.float32) / 60
    image = np.stack([np.add.outer(slope, slope) / 2] * 3, -1)
    record = d.draw(np.random.default_rng(3), d.Shuffled(halve_first=0, plain=0), 60, 60, rest)
    at = [getattr(step, "mode", "") for step in record.steps].index("nearest")
    for step in record.steps[at - 1 : at + 1]:
        image = step(image)
    centres = (np.arange(60 // rest) * rest + (rest - 1) / 2) / 60
    inside = slice(12 // rest + 1, -12 // rest - 1)  # where the border is not felt
    expected = np.add.outer(centres, centres)[inside, inside] / 2
    np.testing.assert_allclose(image[inside, inside, 0], expected, atol=1e-3)
