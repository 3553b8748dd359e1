"""data.kernels: every shape against a formula that was written down another way."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.kernels import SHAPES, Kernel

sizes = st.integers(0, 10).map(lambda n: 2 * n + 1)
sigmas = st.floats(0.1, 10)
widths = st.floats(0.4, 10)  # of which some pixel always has a weight, wherever the centre is


def normalized(kernel):
    return kernel / kernel.sum()


@settings(max_examples=100)
@given(sizes, widths, widths, st.floats(-7, 7), st.floats(0.5, 4), st.floats(0, 2.5))
def test_shapes_agree_with_the_inverse_of_the_covariance(size, wide, tall, theta, beta, offset):
    """pᵀΣ⁻¹p of every pixel p = (x, y), with Σ = R·diag(σx², σy²)·Rᵀ inverted as a matrix.

    R turns from x, along columns, towards y, down the rows; the offset moves the centre likewise.
    """
    offset = min(offset, size // 2)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    covariance = turn @ np.diag([wide**2, tall**2]) @ turn.T
    axis = np.arange(size) - size // 2 - offset
    points = np.stack(np.meshgrid(axis, axis), -1)  # [row, column, (x, y)]
    squared = np.einsum("ijk,kl,ijl->ij", points, np.linalg.inv(covariance), points)
    squared = np.maximum(squared, 0)
    expected = {
        "gaussian": np.exp(-squared / 2),
        "generalized": np.exp(-(squared**beta) / 2),
        "plateau": 1 / (1 + squared**beta),
    }
    for shape, kernel in expected.items():
        ours = Kernel(shape, size, wide, tall, theta, beta, offset=offset).array()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, normalized(kernel), atol=5e-6, err_msg=shape)


@pytest.mark.parametrize("size", [1, 7, 9, 21])
@pytest.mark.parametrize("cutoff", [0.1, 0.8, 2.0, np.pi])
def test_sinc_is_the_transform_of_a_disc(size, cutoff):
    """(2π)⁻² ∬ over |ω| < c of cos(ω·p), by quadrature: no Bessel function in it."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    rho, phi = (nodes + 1) * cutoff / 2, (np.arange(256) + 0.5) * np.pi / 128
    measure = np.outer(weights * cutoff / 2 * rho, np.full(256, np.pi / 128)) / (2 * np.pi) ** 2
    frequencies = np.stack([np.outer(rho, np.cos(phi)), np.outer(rho, np.sin(phi))])
    axis = np.arange(size) - size // 2
    points = np.stack(np.meshgrid(axis, axis), -1)
    disc = (np.cos(np.tensordot(points, frequencies, 1)) * measure).sum((2, 3))
    assert disc[size // 2, size // 2] == pytest.approx(cutoff**2 / (4 * np.pi))  # area over (2π)²
    kernel = Kernel("sinc", size, cutoff=cutoff).array()
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, normalized(disc), atol=2e-6)


@given(sizes, sigmas, st.floats(0, 4))
def test_unsharp_mask_raises_what_a_blur_takes_away(size, sigma, amount):
    """Its response at every frequency is 1 + amount·(1 − that of the blur)."""
    kernel = Kernel("unsharp", size, sigma, sigma, amount=amount).array()
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    blur = Kernel("gaussian", size, sigma, sigma).array().astype(np.float64)
    response = np.fft.fft2(np.fft.ifftshift(kernel.astype(np.float64)))
    expected = 1 + amount * (1 - np.fft.fft2(np.fft.ifftshift(blur)))
    np.testing.assert_allclose(response, expected, atol=1e-5)


def test_kernels_read_well():
    for text, kernel in {
        "gaussian 7 sigma 1.25": Kernel("gaussian", 7, 1.254, 1.254),
        "plateau 9 sigma 2.00 x 1.00 at 0.50 beta 1.50": Kernel("plateau", 9, 2.0, 1.0, 0.5, 1.5),
        "sinc 11 cut-off 1.05": Kernel("sinc", 11, cutoff=1.047),
        "unsharp mask 7 sigma 1.00 amount 1.50": Kernel("unsharp", 7, 1.0, 1.0, amount=1.5),
    }.items():
        assert str(kernel) == text


BLURS = ("gaussian", "generalized", "plateau")


@pytest.mark.parametrize(
    ("shapes", "change", "message"),
    [
        *[(SHAPES, {"size": n}, f"odd and positive, got {n}") for n in (-1, 0, 8)],
        *[
            (BLURS, {axis: n}, "sigma must be")
            for axis in ("sigma_x", "sigma_y")
            for n in (0.0, -1)
        ],
        *[(BLURS[1:], {"beta": n}, f"beta must be positive, got {n}") for n in (0.0, -1.0)],
        *[(("sinc",), {"cutoff": n}, f"must be in 0..π, got {n}") for n in (0.0, -1.0, 3.2)],
        (("unsharp",), {"amount": -0.5}, r"amount must not be negative, got -0\.5"),
        (("unsharp",), {"sigma_x": 0.0}, "sigma must be positive"),
        (("box",), {}, "one of gaussian, .*, unsharp, got 'box'"),
    ],
)
def test_wrong_parameters_are_named(shapes, change, message):
    for shape in shapes:
        good = Kernel(shape, 7, 1.0, 1.0, cutoff=1.0, amount=1.0)
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **change).array()
