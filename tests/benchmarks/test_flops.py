"""benchmarks.flops: counts against those made by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import flops


def counted(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.count(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_matrix_products():
    assert counted(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    batched = counted(lambda a, b: jnp.einsum("bik,bkj->bij", a, b), (4, 3, 5), (4, 5, 7))
    assert batched == 4 * 2 * 3 * 5 * 7
    assert counted(lambda a: jnp.exp(a) + a, (3, 5)) == 0


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


def test_a_scan_counts_as_often_as_it_runs():
    def loop(x, kernel):
        return lax.scan(lambda x, _: (x @ kernel, None), x, None, length=6)[0]

    assert counted(loop, (3, 5), (5, 5)) == 6 * 2 * 3 * 5 * 5


def test_the_dearest_branch_counts():
    def choose(x, kernel):
        return lax.cond(x[0, 0] > 0, lambda: x @ kernel @ kernel, lambda: x @ kernel)

    assert counted(choose, (3, 5), (5, 5)) == 2 * (2 * 3 * 5 * 5)


def test_nested_programs_are_looked_into():
    inner = jax.jit(lambda x, kernel: x @ kernel)
    outer = jax.jit(lambda x, kernel: inner(inner(x, kernel), kernel))
    assert counted(outer, (3, 5), (5, 5)) == 2 * (2 * 3 * 5 * 5)
    kept = jax.checkpoint(lambda x, kernel: inner(x, kernel))
    assert counted(kept, (3, 5), (5, 5)) == 2 * 3 * 5 * 5
