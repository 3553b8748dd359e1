"""data.kernels: every shape against a formula that was written down another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from data import kernels as k

sizes = st.integers(0, 10).map(lambda n: 2 * n + 1)
sigmas = st.floats(0.1, 10)
angles = st.floats(-np.pi, np.pi)
betas = st.floats(0.5, 4)


def mahalanobis(size, sigma_x, sigma_y, theta, offset=0.0):
    """pᵀΣ⁻¹p of every pixel p = (x, y), with Σ = R·diag(σx², σy²)·Rᵀ inverted as a matrix."""
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    covariance = turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T
    axis = np.arange(size) - size // 2 - offset
    points = np.stack(np.meshgrid(axis, axis), -1)  # [row, column, (x, y)]
    return np.einsum("ijk,kl,ijl->ij", points, np.linalg.inv(covariance), points)


def normalized(kernel):
    return kernel / kernel.sum()


def moments(kernel):
    """(mean x, mean y, variance along x, along y), from the top left pixel."""
    y, x = np.mgrid[: len(kernel), : len(kernel)]
    weights = kernel.astype(np.float64)
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    spread = ((weights * (axis - mean) ** 2).sum() for axis, mean in ((x, mean_x), (y, mean_y)))
    return mean_x, mean_y, *spread


@pytest.mark.parametrize("shape", ["gaussian", "generalized", "plateau"])
@given(size=sizes, sigma_x=sigmas, sigma_y=sigmas, theta=angles, beta=betas)
def test_kernel_sums_to_one_and_is_point_symmetric(shape, size, sigma_x, sigma_y, theta, beta):
    kernel = k.Kernel(shape, size, sigma_x, sigma_y, theta, beta).array()
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


@settings(max_examples=50)
@given(sizes, sigmas, sigmas, angles, betas)
def test_shapes_agree_with_the_inverse_of_the_covariance(size, sigma_x, sigma_y, theta, beta):
    axes = (size, sigma_x, sigma_y, theta)
    squared = mahalanobis(*axes)
    expected = {
        "gaussian": np.exp(-squared / 2),
        "generalized": np.exp(-(squared**beta) / 2),
        "plateau": 1 / (1 + squared**beta),
    }
    for shape, kernel in expected.items():
        ours = k.Kernel(shape, *axes, beta).array()
        np.testing.assert_allclose(ours, normalized(kernel), atol=2e-6, err_msg=shape)


def test_first_axis_runs_along_columns_and_turns_towards_the_bottom():
    wide = k.gaussian_kernel(41, 4.0, 1.5)
    assert moments(wide) == pytest.approx((20, 20, 16, 2.25), rel=1e-3)
    np.testing.assert_allclose(k.gaussian_kernel(41, 4.0, 1.5, np.pi / 2), wide.T, atol=1e-7)
    np.testing.assert_allclose(k.gaussian_kernel(41, 1.5, 4.0), wide.T, atol=1e-7)
    turned = k.gaussian_kernel(41, 4.0, 1.5, np.pi / 4)
    assert turned[25, 25] > 10 * turned[25, 15]  # right and down, where x and y both grow


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (k.gaussian_kernel, {}),
        (k.generalized_gaussian_kernel, {"beta": 0.7}),
        (k.plateau_kernel, {"beta": 1.6}),
    ],
)
@pytest.mark.parametrize("theta", [0.0, 0.4, -2.5])
def test_equal_sigmas_make_an_isotropic_kernel(make, more, theta):
    isotropic = make(13, 1.7, **more)
    np.testing.assert_allclose(make(13, 1.7, 1.7, theta, **more), isotropic, atol=1e-7)
    np.testing.assert_allclose(isotropic, isotropic.T, atol=1e-8)
    np.testing.assert_allclose(isotropic, np.rot90(isotropic), atol=1e-8)


def test_beta_one_is_the_gaussian_and_more_is_flatter():
    axes = (15, 2.5, 1.2, 0.3)
    gaussian = k.gaussian_kernel(*axes)
    np.testing.assert_array_equal(k.generalized_gaussian_kernel(*axes, beta=1.0), gaussian)
    for make in (k.generalized_gaussian_kernel, k.plateau_kernel):
        # Inside r = 1, where r^(2β) shrinks with β, neighbours come closer to the centre.
        drop = [kernel[7, 8] / kernel[7, 7] for kernel in (make(*axes, beta=b) for b in (1, 2, 4))]
        assert drop == sorted(drop) and drop[2] > 0.95 > drop[0]


@settings(max_examples=50)
@given(sizes, st.floats(0.05, np.pi))
def test_sinc_agrees_with_the_bessel_function(size, cutoff):
    axis = np.arange(size) - size // 2
    r = np.sqrt(axis[:, None] ** 2 + axis**2.0)
    away = np.where(r == 0, 1, r)
    jinc = np.where(r == 0, cutoff / 2, special.j1(cutoff * away) / away)  # J₁(x)/x → 1/2
    kernel = k.sinc_kernel(size, cutoff)
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, normalized(jinc), atol=2e-6)


@pytest.mark.parametrize("cutoff", [0.8, 2.0, np.pi])
def test_sinc_is_the_transform_of_a_disc(cutoff):
    """(2π)⁻² ∬ over |ω| < c of cos(ω·p), by quadrature: no Bessel function in it."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    rho, phi = (nodes + 1) * cutoff / 2, (np.arange(128) + 0.5) * np.pi / 64
    measure = np.outer(weights * cutoff / 2 * rho, np.full(128, np.pi / 64)) / (2 * np.pi) ** 2
    frequencies = np.stack([np.outer(rho, np.cos(phi)), np.outer(rho, np.sin(phi))])
    axis = np.arange(9) - 4
    x, y = np.meshgrid(axis, axis)
    phases = np.tensordot(np.stack([x, y], -1), frequencies, 1)
    disc = (np.cos(phases) * measure).sum((2, 3))
    assert disc[4, 4] == pytest.approx(cutoff**2 / (4 * np.pi))  # area over (2π)²
    np.testing.assert_allclose(k.sinc_kernel(9, cutoff), normalized(disc), atol=1e-6)


def test_sinc_passes_below_its_cutoff_and_rings():
    cutoff = np.pi / 2
    kernel = k.sinc_kernel(63, cutoff)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-8)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-8)
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert kernel.min() < -0.1 * kernel.max()  # negative rings: overshoot at edges
    response = np.abs(np.fft.fft2(kernel))[0, :32]  # frequencies 2πn/63 along one axis
    frequency = 2 * np.pi * np.arange(32) / 63
    np.testing.assert_allclose(response[frequency < 0.8 * cutoff], 1, atol=0.1)
    np.testing.assert_allclose(response[frequency > 1.2 * cutoff], 0, atol=0.1)


@settings(max_examples=40)
@given(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.25]), st.floats(0.7, 2.4))
def test_offset_moves_the_centroid_to_the_bottom_right(offset, sigma):
    kernel = k.gaussian_kernel(31, sigma, offset=offset)
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert moments(kernel)[:2] == pytest.approx((15 + offset, 15 + offset), abs=2e-3)
    expected = normalized(np.exp(-mahalanobis(31, sigma, sigma, 0, offset) / 2))
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


def test_record_makes_the_kernel_of_its_shape():
    axes = (9, 2.0, 1.0, 0.5)
    made = {
        "gaussian": k.gaussian_kernel(*axes, offset=0.5),
        "generalized": k.generalized_gaussian_kernel(*axes, beta=1.5),
        "plateau": k.plateau_kernel(*axes, beta=1.5),
        "sinc": k.sinc_kernel(9, 1.0),
        "unsharp": k.unsharp_kernel(9, 2.0, amount=0.7),
    }
    assert set(made) == set(k.SHAPES)
    for shape, kernel in made.items():
        record = k.Kernel(shape, *axes, 1.5, 1.0, 0.5, amount=0.7)
        np.testing.assert_array_equal(record.array(), kernel, err_msg=shape)


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (k.Kernel("gaussian", 7, 1.254, 1.254), "gaussian 7 sigma 1.25"),
        (k.Kernel("gaussian", 21, 3.0, 0.5, -1.5), "gaussian 21 sigma 3.00 x 0.50 at -1.50"),
        (k.Kernel("generalized", 9, 2.0, 2.0, 0.0, 0.75), "generalized 9 sigma 2.00 beta 0.75"),
        (
            k.Kernel("plateau", 9, 2.0, 1.0, 0.5, 1.5),
            "plateau 9 sigma 2.00 x 1.00 at 0.50 beta 1.50",
        ),
        (k.Kernel("sinc", 11, cutoff=1.047), "sinc 11 cut-off 1.05"),
        (k.Kernel("unsharp", 7, 1.0, 1.0, amount=1.5), "unsharp mask 7 sigma 1.00 amount 1.50"),
    ],
)
def test_record_reads_well(kernel, text):
    assert str(kernel) == text


@pytest.mark.parametrize("shape", k.SHAPES)
@pytest.mark.parametrize("size", [-1, 0, 8])
def test_size_must_be_odd_and_positive(shape, size):
    with pytest.raises(ValueError, match=f"size must be odd and positive, got {size}"):
        k.Kernel(shape, size, 1.0, 1.0, cutoff=1.0).array()


@pytest.mark.parametrize("shape", ["gaussian", "generalized", "plateau"])
@pytest.mark.parametrize("sigmas", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_sigmas_must_be_positive(shape, sigmas):
    with pytest.raises(ValueError, match="sigma must be positive"):
        k.Kernel(shape, 7, *sigmas).array()


@pytest.mark.parametrize("shape", ["generalized", "plateau"])
@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_beta_must_be_positive(shape, beta):
    with pytest.raises(ValueError, match=f"beta must be positive, got {beta}"):
        k.Kernel(shape, 7, 1.0, 1.0, beta=beta).array()


@pytest.mark.parametrize("cutoff", [0.0, -1.0, 3.2])
def test_cutoff_must_be_a_frequency(cutoff):
    with pytest.raises(ValueError, match=f"cut-off must be in 0..π, got {cutoff}"):
        k.sinc_kernel(7, cutoff)


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match="one of gaussian, .*, unsharp, got 'box'"):
        k.Kernel("box", 7, 1.0, 1.0).array()


@given(sizes, sigmas, st.floats(0, 4))
def test_unsharp_mask_raises_what_a_blur_takes_away(size, sigma, amount):
    """Its response at every frequency is 1 + amount·(1 − that of the blur)."""
    kernel = k.Kernel("unsharp", size, sigma, sigma, amount=amount).array()
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    blur = k.gaussian_kernel(size, sigma).astype(np.float64)
    response = np.fft.fft2(np.fft.ifftshift(kernel.astype(np.float64)))
    expected = 1 + amount * (1 - np.fft.fft2(np.fft.ifftshift(blur)))
    np.testing.assert_allclose(response, expected, atol=1e-5)


def test_unsharp_amount_must_not_be_negative():
    with pytest.raises(ValueError, match=r"unsharp amount must not be negative, got -0\.5"):
        k.unsharp_kernel(7, 1.0, amount=-0.5)
