"""data.lens: what is drawn, and what it does to contrast at every frequency."""

import numpy as np
import pytest

from data import chain as c
from data import degradations as d
from tests.data.draws import SIDE, assert_share, assert_uniform, draws, of

STEPS = (c.Resize, c.GaussianNoise, c.Jpeg)  # beside the blurs


def test_optics_sensor_sharpening_file_and_registration_in_this_order():
    records = draws("lens", 1500)
    for record in records:
        kinds = [type(step) for step in record.steps]
        assert kinds[:2] == [c.Blur, c.Resize] and kinds[-1] is c.Blur
        others = [kind for kind in kinds if kind is not c.Blur]
        assert others == [kind for kind in STEPS if kind in others]
    optics = [record.steps[0].kernel for record in records]
    assert_uniform([kernel.sigma_x for kernel in optics], 4 * 0.3, 4 * 1.0)
    assert_uniform([record.steps[-1].kernel.sigma_x for record in records], 0.3, 0.9)
    resizes = of(c.Resize, records)
    assert {(r.height, r.width) for r in resizes} == {(SIDE // 4, SIDE // 4)}
    assert_share((r.mode == "area" for r in resizes), 0.5)
    assert all(r.antialias == (r.mode == "bicubic") for r in resizes)
    assert_share((bool(of(c.GaussianNoise, [r])) for r in records), 0.6)
    assert_uniform([n.sigma for n in of(c.GaussianNoise, records)], 0, 2)
    assert_share((bool(of(c.Jpeg, [r])) for r in records), 0.3)
    assert {step.quality for step in of(c.Jpeg, records)} == set(range(80, 98))
    masks = [s.kernel for s in of(c.Blur, records) if s.kernel.shape == "unsharp"]
    assert len(of(c.Blur, records)) == 2 * len(records) + len(masks)
    assert len(masks) / len(records) == pytest.approx(0.9, abs=0.03)
    assert_uniform([mask.amount for mask in masks], 0, 2.5)
    assert_uniform([mask.sigma_x for mask in masks], 0.6, 1.7)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_blurs_reach_as_far_in_lr_pixels_at_every_scale(scale):
    sigmas = [record.steps[0].kernel.sigma_x for record in draws("lens", 400, scale, 600)]
    assert_uniform(sigmas, 0.3 * scale, 1.0 * scale)
    for record in draws("lens", 50, scale, 600):
        for blur in of(c.Blur, [record]):
            assert blur.kernel.size // 2 >= 3 * blur.kernel.sigma_x


def test_contrast_is_raised_below_a_quarter_cycle_and_falls_steeply_beyond():
    """Mean response to a grating of small amplitude.

    Between the HR and LR images of RealSR it is 1.15 at 1/8 cycle an LR pixel and 0.35 at 3/8; the
    Gaussian that has the one at 3/8 has 0.89 at 1/8.
    """
    records = [d.draw(np.random.default_rng(seed), "lens", 128, 128, 4) for seed in range(200)]
    records = [r for r in records if of(c.Resize, [r])[0].mode == "area"]  # as the reference below
    measured = {}
    for eighths in (1, 3):
        wave = np.cos(2 * np.pi * eighths / 8 * (np.arange(128) + 0.5) / 4)
        hr = np.broadcast_to((0.5 + 0.05 * wave)[None, :, None], (128, 128, 3)).astype(np.float32)
        reference = wave.reshape(32, 4).mean(1)
        gains = []
        for record in records:
            row = record.apply(hr).astype(np.float64).mean((0, 2)) / 255
            gains.append((row - row.mean()) @ reference / (reference @ reference) / 0.05)
        measured[eighths] = np.mean(gains)
    assert measured[1] > 1
    assert measured[3] < 0.4
