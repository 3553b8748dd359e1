"""ops.color: what each fix takes from the input and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.ops.color import adain, correct, wavelet

blended = jax.jit(wavelet)  # one program compiles faster than its many operations


def images():
    rng = np.random.default_rng(0)
    content = rng.normal(0.3, 0.2, (2, 64, 64, 3)).astype(np.float32)
    style = rng.normal([0.2, 0.5, 0.8], [0.1, 0.05, 0.2], (2, 16, 16, 3)).astype(np.float32)
    return jnp.asarray(content), jnp.asarray(style)


def test_adain_is_the_published_formula():
    content, style = (np.asarray(x, np.float64) for x in images())
    expected = np.empty_like(content)
    for b, c in np.ndindex(2, 3):
        x, y = content[b, ..., c], style[b, ..., c]
        deviation, target = (np.sqrt(z.var(ddof=1) + 1e-5) for z in (x, y))
        expected[b, ..., c] = (x - x.mean()) / deviation * target + y.mean()
    np.testing.assert_allclose(adain(*images()), expected, atol=1e-5)


def test_adain_of_flat_tiles_and_single_pixels_is_finite():
    found = adain(jnp.full((1, 4, 4, 3), 0.2), jnp.full((1, 1, 1, 3), 0.9))
    np.testing.assert_allclose(found, 0.9, atol=1e-4)


def test_wavelet_moves_a_tint_and_keeps_detail():
    _, style = images()
    style = jnp.full_like(style, 0.7)
    rows = jnp.arange(64)[None, :, None, None]
    detail = jnp.broadcast_to(0.1 * jnp.where(rows % 2, -1.0, 1.0), (2, 64, 64, 3))
    found = blended(0.2 + detail, style)
    # well inside the border the finest stripes have no low frequencies at all
    np.testing.assert_allclose(found[:, 32, 32], (0.7 + detail)[:, 32, 32], atol=1e-5)
    np.testing.assert_allclose(found.mean((1, 2)), 0.7, atol=0.02)


def test_wavelet_takes_low_frequencies_from_the_input():
    content, _ = images()
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 16)[None, None, :, None], (2, 16, 16, 3))
    found = blended(content, ramp)
    columns = np.asarray(found.mean((0, 1, 3)))  # averaging removes the content's own noise
    expected = np.asarray(blended(jnp.full_like(content, 0.5), ramp).mean((0, 1, 3)))
    np.testing.assert_allclose(columns, expected, atol=0.05)
    assert columns[-8:].mean() - columns[:8].mean() > 0.7


def test_correct_by_name():
    content, style = images()
    np.testing.assert_array_equal(correct(content, style, "none"), content)
    np.testing.assert_array_equal(correct(content, style, "adain"), adain(content, style))
    np.testing.assert_array_equal(correct(content, style, "wavelet"), wavelet(content, style))
    with pytest.raises(ValueError, match="adain, wavelet, none, found 'ycbcr'"):
        correct(content, style, "ycbcr")
