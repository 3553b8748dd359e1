"""methods.sr3: sampling, windows that agree, consistency, training, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr import images
from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.sr3 import SR3, SR3Regression
from maskgit_sr.methods.sr3_base import ScheduleConfig, SR3Losses
from maskgit_sr.models.sr3_unet import UNetConfig
from maskgit_sr.ops.noise import Windows
from maskgit_sr.ops.resize import downsample_bicubic
from tests.methods import small

ONE = UNetConfig(8, (1,), 1, (), False, 4, 0.0)
FEW = dict(sampler="dpm", steps=3)


class Known(SR3):
    """SR3 with a network that is told what is under the noise; nothing is compiled for it.

    Attributes:
        clean: (condition in [0, 1]) → image in [0, 1] that it takes for the clean one.
    """

    def __init__(self, clean, **changes):
        super().__init__(small.sr3(**changes))
        self.clean, self.unet = clean, self

    def bind(self, params):
        return self

    def context(self, condition):
        image = (condition + 1) / 2
        return self.encode(self.clean(image), image)

    def shifts(self, levels):
        return levels[:, None]

    def __call__(self, y, context, shifts, key=None):
        level = shifts[:, :, None, None]
        return (y - level * context) / jnp.sqrt(1 - level**2)


def known(clean=lambda image: 0 * image + jnp.array([0.2, 0.5, 0.7])[None, None, None], **changes):
    method = Known(clean, **changes)
    metadata = Metadata(method.name, {}, method.scale)
    return Upscaler(method, {"unet": {}}, metadata, batch=3, device=jax.devices("cpu")[0])


@pytest.fixture(scope="module")
def upscaler():
    """Random weights, of a network small enough to compile for each choice of options."""
    method = SR3(small.sr3(unet=ONE))
    metadata = Metadata(method.name, method.describe(), method.scale)
    params = small.random_params(method)
    return Upscaler(method, params, metadata, batch=2, device=jax.devices("cpu")[0])


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("target", ["image", "residual"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm"])
def test_a_data_set_of_one_image_gives_that_image(target, sampler):
    found = known(target=target)(pixels(7, 40), sampler=sampler, steps=10).image
    assert found.shape == (14, 80, 3)
    np.testing.assert_allclose(found - np.array([51.0, 127.5, 178.5]), 0, atol=1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40), (17, 3)])
def test_any_size(upscaler, height, width):
    found = upscaler(pixels(height, width), **FEW).image
    assert found.shape == (2 * height, 2 * width, 3) and found.dtype == np.uint8
    again = upscaler(pixels(height, width), **FEW).image
    np.testing.assert_array_equal(found, again)


def test_windows_draw_the_same_noise_where_they_overlap(upscaler):
    """A window of the same content elsewhere differs, at the same place it does not."""
    method, options = upscaler.method, upscaler.options(**FEW)
    run = jax.jit(lambda *given: method.restore_windows(*given, options).image)
    lr = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (1, 8, 8, 3)), (3, 8, 8, 3))
    keys = jax.vmap(jax.random.key)(jnp.zeros(3, jnp.uint32))
    places = jnp.array([(0, 0, 4), (5, 0, 4), (0, 0, 8)], jnp.int32)
    found = run(upscaler.params, lr, Windows.of(keys, places))
    # Its index is nothing to it; examples of a batch may be rounded apart.
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert jnp.abs(found[0] - found[2]).max() > 0.05
    alone = run(upscaler.params, lr[:1], Windows.of(keys[:1], places[:1]))
    np.testing.assert_allclose(alone[0], found[0], atol=1e-4)


def test_an_image_in_windows_has_no_seams():
    """Where the estimate is of each pixel by itself, windows give what one whole image gives."""
    shade = lambda image: 0.5 * image + 0.2  # noqa: E731
    given, options = pixels(30, 30), dict(sampler="ancestral", steps=5, clip=False, seed=3)
    pieces = known(shade)(given, **options).image
    one = known(shade, tile=dataclasses.replace(small.sr3().tile, sides=(32,)))
    # Float, so that nothing is hidden by rounding; the enlarged LR differs at a window's border.
    whole = one(given, **options).image
    assert np.abs(pieces.astype(int) - whole.astype(int))[8:-8, 8:-8].max() <= 1


def test_batch_and_order_change_nothing(upscaler):
    picture = images.from_array(pixels(20, 20))
    options = upscaler.options(**FEW)
    found = upscaler.restore(picture, **FEW).picture.color
    mosaics = [upscaler.mosaic(p, options) for p in (images.from_array(pixels(9, 9)), picture)]
    *_, other = upscaler.complete(mosaics, options)
    np.testing.assert_allclose(other.color.astype(int), found.astype(int), atol=1)


@pytest.mark.parametrize("target", ["image", "residual"])
def test_consistency_returns_the_input(target):
    y, x = np.mgrid[:16, :16][..., None] / 5
    given = (0.5 + 0.1 * np.sin(x + y) * np.cos(y - np.arange(3))).astype(np.float32)
    upscaler = known(target=target)

    def distance(**options):
        image = upscaler(given, sampler="dpm", steps=4, **options).image
        return np.abs(downsample_bicubic(image[None], 2)[0] - given).mean() * 255

    plain, last, more = (distance(consistency=count) for count in (0, 1, 3))
    assert plain > 10 and last < 0.1 and more < 0.1


def test_the_regression_is_one_pass_and_has_no_sampler():
    method = SR3Regression(small.sr3())
    assert not method.options().stochastic
    with pytest.raises(ValueError, match="steps: sr3_regression has no such option; expected one"):
        method.options(steps=20)
    assert method.shapes() == SR3(small.sr3()).shapes()
    assert list(method.stages) == ["regression"] and method.losses.pixel == "l2"


def test_a_bundle_of_the_regression_does_not_sample():
    method = SR3Regression(small.sr3())
    metadata = Metadata(method.name, method.describe(), method.scale)
    device = jax.devices("cpu")[0]
    upscaler = Upscaler(method, small.random_params(method), metadata, batch=1, device=device)
    with pytest.raises(UserError, match="sampler: sr3_regression has no such option"):
        upscaler(pixels(8, 8), sampler="ddim")


def test_training_learns_the_noise_level():
    """The loss is that of the trivial prediction at first, for L1 √(2/π), for L2 1."""
    for pixel, expected in (("l1", np.sqrt(2 / np.pi)), ("l2", 1.0)):
        method = SR3(small.sr3(unet=ONE), SR3Losses(pixel=pixel))
        params = small.random_params(method)
        params["unet"]["conv_out"] = jax.tree.map(jnp.zeros_like, params["unet"]["conv_out"])
        hr = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
        batch = {"hr": hr, "lr": downsample_bicubic(hr, 2)}
        [phase] = method.stages["diffusion"].phases
        loss, result = jax.jit(phase.loss)(params, {}, batch, jax.random.key(1), jnp.int32(0))
        assert float(loss) == pytest.approx(expected, rel=0.05)
        assert float(result.metrics["noise"]) == float(loss)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (dict(steps=0), "steps: expected 1 to 4000, found 0"),
        (dict(steps=2001), "steps: expected 1 to 2000, those of the schedule, found 2001"),
        (dict(eta=1.5), "eta: expected 0 to 1, found 1.5"),
        (dict(eta=float("nan")), "eta: expected 0 to 1, found nan"),
        (dict(sampler="euler"), "sampler: expected one of ancestral, ddim, dpm, found 'euler'"),
        (dict(variance="huge"), "variance: expected one of large, small, found 'huge'"),
        (dict(schedule="sine"), "schedule: expected one of respaced, linear"),
        (dict(consistency=101), "consistency: expected 0 to 100, the steps, found 101"),
        (dict(beta_end=1.0), "beta_end: expected 0 or more and below 1, found 1.0"),
        (
            dict(schedule="linear", beta_end=0.01),
            r"linear, 100 steps, β 1e-06 to 0.01 \(0.188 would fit\), ends at γ 0.61, which is no"
            " noise",
        ),
        (dict(schedule="jsd"), "jsd, .* ends at γ 0; expected at least 1e-12"),
    ],
)
def test_bad_options(given, named):
    with pytest.raises(ValueError, match=named):
        SR3().options(**given)


def test_schedules_of_its_own_end_where_the_training_s_does():
    method = SR3()
    trained = method.config.schedule.gammas
    for kind in ("linear", "quad", "warmup10", "const"):
        found = method.gammas(method.options(schedule=kind, steps=50))
        assert len(found) == 51 and found[-1] == pytest.approx(trained[-1], rel=1e-3)
    assert len(method.gammas(method.options(schedule="cosine", steps=50))) == 51


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: small.sr3(target="noise"), "target: expected one of image, residual"),
        (lambda: small.sr3(scale=1, tile=small.TileSpec((7,), 0)), "tile.sides: expected HR sides"),
        (lambda: ScheduleConfig(steps=100), "schedule ends at γ 0.61, which is no noise"),
        (lambda: SR3Losses(pixel="l3"), "losses.pixel: expected one of l1, l2"),
        (lambda: SR3Losses(uniform="t"), "losses.uniform: expected one of gamma, sqrt"),
    ],
)
def test_bad_settings(make, named):
    with pytest.raises(ValueError, match=named):
        make()
