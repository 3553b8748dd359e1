"""benchmarks.roofline: counts against those made by hand, and limits of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import roofline
from benchmarks.roofline import Limits
from maskgit_sr.training import watch

GPU = Limits("toy", "gpu", peak=100e12, bandwidth=1e12, matmul={"bfloat16": 80e12})
CPU = Limits("cpu", "cpu", peak=None, bandwidth=None, matmul={"float32": 1e11})


def counted(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return roofline.traced(function, *arrays)[0]


def scanned(x, kernel):
    return lax.scan(lambda x, _: (x @ kernel, None), x, None, length=6)[0]


def branched(x, kernel):
    return lax.cond(x[0, 0] > 0, lambda: x @ kernel @ kernel, lambda: x @ kernel)


jitted = jax.jit(jnp.matmul)


@pytest.mark.parametrize(
    ("function", "shapes", "products"),
    [
        (jnp.matmul, [(3, 5), (5, 7)], 3 * 5 * 7),
        (lambda a, b: jnp.einsum("bik,bkj->bij", a, b), [(4, 3, 5), (4, 5, 7)], 4 * 3 * 5 * 7),
        (lambda a: jnp.exp(a) + a, [(3, 5)], 0),
        (scanned, [(3, 5), (5, 5)], 6 * 3 * 5 * 5),
        (branched, [(3, 5), (5, 5)], 2 * 3 * 5 * 5),  # the dearest branch
        (lambda x, k: jitted(jitted(x, k), k), [(3, 5), (5, 5)], 2 * 3 * 5 * 5),
        (jax.checkpoint(lambda x, k: jitted(x, k)), [(3, 5), (5, 5)], 3 * 5 * 5),
    ],
)
def test_products(function, shapes, products):
    assert counted(function, *shapes) == 2 * products


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4)])
def test_convolutions(stride, side):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * (2 * side * side * 6) * (3 * 3 * 5)
    assert counted(convolve, (2, 8, 8, 5), (3, 3, 5, 6)) == forward

    def gradients(x, kernel):
        return jax.grad(lambda *args: convolve(*args).sum(), (0, 1))(x, kernel)

    # each gradient is as much work as the forward pass, zeros put in between not counted; what is
    # counted beside it are the products with padding, which the weight gradient has one row of
    total = counted(gradients, (2, 8, 8, 5), (3, 3, 5, 6))
    assert total >= 2 * forward
    assert total == pytest.approx(3 * forward, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "peak", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 3.35),
        ("NVIDIA H200", 989, 4.8),
        ("NVIDIA A100-SXM4-80GB", 312, 2.0),
        ("NVIDIA A100-SXM4-40GB", 312, 1.555),
        ("TPU v5 lite", 197, 0.819),
        ("TPU v5e", 197, 0.819),
        ("TPU v5p", 459, 2.765),
        ("TPU v5", 459, 2.765),
        ("cpu", None, None),
    ],
)
def test_peaks_by_the_name_of_the_device(kind, peak, bandwidth):
    assert watch.of_kind(watch.PEAK_TFLOPS, kind) == peak
    found = watch.of_kind(roofline.BANDWIDTH, kind)
    assert found == (None if bandwidth is None else pytest.approx(bandwidth * 1e12))


def test_a_device_with_a_peak_has_a_bandwidth():
    for kind in watch.PEAK_TFLOPS:
        assert watch.of_kind(roofline.BANDWIDTH, kind) is not None


def test_the_floor_is_products_or_memory():
    assert GPU.floor(np.array([100e12, 0.5e12]), "bfloat16") == 1.0
    assert GPU.floor(np.array([10e12, 0.5e12]), "bfloat16") == 0.5
    assert CPU.floor(np.array([2e11, 1e15]), "float32") == 2.0  # by a measured product alone
    assert CPU.floor(np.array([2e11, 1e15]), "bfloat16") is None


def test_shares():
    cost = np.array([40e12, 0.2e12])
    shares = ("40", "40.0%", "50.0%", "4e+04", "200", "200", "400", "40%")
    assert GPU.cells(cost, 1.0, "bfloat16") == shares
    assert GPU.cells(cost, 2.0, "float16")[:3] == ("20", "20.0%", None)
    assert CPU.cells(cost / 400, 2.0, "float32")[:3] == ("0.05", None, "50.0%")
    assert CPU.cells(cost, 2.0, "bfloat16")[-2:] == (None, None)
    assert len(shares) == len(roofline.HEAD.split("|"))


def test_limits_of_this_device():
    found = roofline.limits(["float32", "float32"], repeats=1, side=64)
    assert (found.platform, found.peak, found.bandwidth) == ("cpu", None, None)
    assert list(found.matmul) == ["float32"] and found.matmul["float32"] > 0
    assert "in float32" in found.describe() and "peak" not in found.describe()
    assert "peak 100 TFLOP/s in bfloat16, 1.00 TB/s" in GPU.describe()


def test_random_weights_have_the_shapes(method):
    shapes = {"critic": method.shapes()["critic"]}
    found = roofline.random_params(shapes)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
