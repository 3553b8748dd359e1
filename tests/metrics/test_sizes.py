"""metrics: what a set of many sizes costs, and that the scores are those of any size."""

import jax
import numpy as np
import pytest

from maskgit_sr.metrics import create, niqe, pixel, programs
from tests.metrics.test_pixel import pair

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if "backend_compile" in event else None
)
NAMES = (
    "psnr_rgb psnr_y ssim_rgb ssim_luma ssim_y ms_ssim_y ms_ssim_luma_sum lr_psnr lr_psnr_ntire"
).split()


def test_no_program_is_compiled_for_a_size(assets):
    made = create([*NAMES, "lr_consistency", "niqe"], border=2, assets=assets)

    def score(height, width):
        x, y = pair(height, width, batch=1)
        for name, metric in made.items():
            others = [y if kind == "hr" else y[:, ::2, ::2] for kind in metric.spec.images]
            assert np.isfinite(metric(x, *others)).all(), name

    score(200, 210)
    first = len(COMPILED)
    for step in range(5):
        score(200 + 6 * step, 220 + 18 * step)
    assert first > 0 and len(COMPILED) == first


@pytest.mark.parametrize(("height", "width"), [(267, 290), (180, 530)])
def test_tiles_make_no_difference(monkeypatch, height, width):
    """At their edges, in every size: the scores of one tile that holds all."""
    x, y = pair(height, width, batch=1)
    calls = [
        lambda: pixel.ssim(x, y, color="rgb", border=3),
        lambda: pixel.ssim(x, y, color="luma"),
        lambda: pixel.ms_ssim(x, y, color="rgb"),
    ]
    tiled = [call() for call in calls]
    monkeypatch.setattr(pixel, "_TILE", 528)
    jax.clear_caches()  # the size of a tile is part of the program
    whole = [call() for call in calls]
    jax.clear_caches()
    np.testing.assert_allclose(tiled, whole, atol=2e-6)


def test_niqe_of_an_image_is_that_of_its_blocks_however_many_at_a_time(monkeypatch):
    x, _ = pair(96 * 3 + 5, 96 * 3 + 7, batch=2)
    found = niqe.features(x)
    assert found.shape == (2, 9, 36)
    monkeypatch.setattr(niqe, "_BATCH", 7)
    np.testing.assert_allclose(niqe.features(x), found, rtol=1e-4, atol=1e-4)
    traced = jax.jit(niqe.features)(x)
    np.testing.assert_allclose(traced, found, rtol=2e-3, atol=2e-3)


def test_networks_keep_the_programs_of_few_sizes():
    traced = []

    def network(params, x):
        traced.append(x.shape)
        return params * x.sum((1, 2, 3))

    score = programs.by_size(network)
    for _ in range(2):
        for side in range(1, programs.KEPT + 1):
            assert score(2.0, np.ones((1, side, side, 3), np.float32)) == 6 * side**2
    assert len(traced) == programs.KEPT
    for side in range(1, 4 * programs.KEPT):
        score(2.0, np.ones((1, side, 99, 3), np.float32))
    assert len(traced) == programs.KEPT + 4 * programs.KEPT - 1
