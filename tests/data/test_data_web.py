"""data.web: what is drawn, in which order, and what it does to the picture."""

import numpy as np
import pytest

from data import chain as c
from data import degradations as d
from data import operations as o
from data.web import MODES, Web
from tests.data.draws import SIDE, assert_equally_often, assert_share, assert_uniform, draws, of
from tests.data.pictures import photo

LR = (SIDE // 4, SIDE // 4)


def kinds(record):
    """One letter a step: blur, resize, noise, sharpening (an unsharp blur), JPEG."""
    letters = {c.Blur: "b", c.Resize: "r", c.GaussianNoise: "n", c.Jpeg: "j"}
    return "".join(
        "s" if isinstance(step, c.Blur) and step.kernel.shape == "unsharp" else letters[type(step)]
        for step in record.steps
    )


def test_blur_reduction_noise_sharpening_and_files_in_this_order():
    records = draws("web", 2000)
    orders = [kinds(record) for record in records]
    for order in orders:
        first, _, rest = order.partition("r")
        assert first in ("", "b")
        assert rest.removeprefix("n").removeprefix("s") in ("j", "jj", "jrj")
    assert_share(("b" in order for order in orders), 0.6)
    assert_share(("n" in order for order in orders), 0.6)
    assert_share(("s" in order for order in orders), 0.5)
    twice = [order for order in orders if order.count("j") == 2]
    assert_share((order.count("j") == 2 for order in orders), 0.4)
    assert_share((order.endswith("jrj") for order in twice), 0.6)


def test_ranges_are_those_of_the_settings():
    records = draws("web", 2000)
    blurs = of(c.Blur, records)
    masks = [blur.kernel for blur in blurs if blur.kernel.shape == "unsharp"]
    plain = [blur.kernel for blur in blurs if blur.kernel.shape == "gaussian"]
    assert len(masks) + len(plain) == len(blurs)
    assert_uniform([kernel.sigma_x for kernel in plain], 4 * 0.2, 4 * 1.0)
    assert_uniform([mask.amount for mask in masks], 0.2, 1.5)
    assert_uniform([mask.sigma_x for mask in masks], 0.5, 1.5)
    assert all(kernel.sigma_x == kernel.sigma_y for kernel in (*plain, *masks))
    noises = of(c.GaussianNoise, records)
    assert_uniform([noise.sigma for noise in noises], 0, 8)
    assert_share((noise.grey for noise in noises), 0.4)
    assert_uniform([noise.seed for noise in noises], 0, 2**32 - 1)
    files = of(c.Jpeg, records)
    assert_equally_often([file.quality for file in files], range(35, 91))
    assert_share((file.subsampled for file in files), 0.75)
    resizes = of(c.Resize, records)
    assert_equally_often([(step.mode, step.antialias) for step in resizes], MODES)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sizes_and_blurs_are_right_at_every_scale(scale):
    side = 600 * scale
    factors, blurs = [], []
    for record in draws("web", 600, scale, side):
        for blur in of(c.Blur, [record]):
            assert blur.kernel.size // 2 >= 3 * blur.kernel.sigma_x
        first, *second = of(c.Resize, [record])
        assert first.height == first.width <= side
        last = second[0] if second else first
        assert len(second) <= 1 and (last.height, last.width) == (600, 600)
        factors += [first.height / 600] if second else []
        blurs += [record.steps[0].kernel.sigma_x] if kinds(record)[0] == "b" else []
    assert_uniform(factors, 1.1 - 1 / 1200, 2.0)
    blurs = [
        r.steps[0].kernel.sigma_x for r in draws("web", 600, scale, side) if kinds(r)[0] == "b"
    ]
    assert_uniform(blurs, 0.2 * scale, 1.0 * scale)


def seam(lr):
    """Mean step between columns 8k + 3 and 8k + 4 over that of all: blocks of 8 have none there."""
    steps = np.abs(np.diff(lr.astype(float).mean(-1), axis=1)).mean(0)
    return steps[3::8].mean() / steps.mean()


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_the_first_file_are_reduced_with_the_picture(seed):
    """Of a file twice as large as the LR image, blocks of 8 become those of 4."""
    hr = photo(256, 256)
    plain = dict(blur=0.0, noise=0.0, sharpening=0.0, subsampled=0.0, jpeg_quality=(5, 5))
    once = d.draw(np.random.default_rng(seed), Web(**plain, twice=0.0), 256, 256, 4)
    assert kinds(once) == "rj" and seam(once.apply(hr)) < 1
    shared = Web(**plain, twice=1.0, larger=1.0, larger_by=(2.0, 2.0))
    record = d.draw(np.random.default_rng(seed), shared, 256, 256, 4)
    assert kinds(record) == "rjrj"
    assert [(s.height, s.width) for s in of(c.Resize, [record])] == [(128, 128), (64, 64)]
    first = c.Degradation(256, 256, 4, record.steps[:-1]).apply(hr)
    assert first.shape == (64, 64, 3) and seam(first) > 1.5


def test_steps_are_those_of_the_operations():
    """One picture shared twice, step by step."""
    rng = np.random.default_rng(3)
    record = d.draw(rng, Web(blur=1, noise=1, sharpening=1, twice=1, larger=1), 96, 120, 4)
    assert kinds(record) == "brnsjrj"
    image = photo(96, 120)
    for step in record.steps:
        image = step(image)
    np.testing.assert_array_equal(record.apply(photo(96, 120)), o.to_bytes(image))
