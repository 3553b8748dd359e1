"""methods.base: options whose numbers are traced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.methods.base import RestoreOptions


@dataclasses.dataclass(frozen=True)
class Options(RestoreOptions):
    traced = ("strength", "grain")

    steps: int = 4
    strength: float = 1.0
    grain: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: expected 0 to 1, found {self.strength}")


def test_split_parts_numbers_from_what_is_static():
    given = Options(color_fix="adain", steps=2, strength=0.25, grain=3.0)
    static, values = given.split()
    assert static == Options(color_fix="adain", steps=2)
    assert values == {"strength": 0.25, "grain": 3.0}
    assert {value.dtype for value in values.values()} == {np.dtype(np.float32)}
    # Equal and of one hash, so that all their values find the same program.
    other, _ = Options(color_fix="adain", steps=2, strength=1.0).split()
    assert other == static and hash(other) == hash(static)
    assert Options(steps=3).split()[0] != static
    assert RestoreOptions(color_fix="adain").split() == (RestoreOptions(color_fix="adain"), {})


def test_bind_is_the_inverse_and_leaves_what_it_is_called_on():
    given = Options(steps=2, strength=0.25, grain=3.0)
    static, values = given.split()
    assert static.bind(values) == given
    assert static == Options(steps=2)
    with pytest.raises(ValueError, match="strength: expected 0 to 1, found 2"):
        dataclasses.replace(given, strength=2.0)


def test_bound_values_may_be_traced():
    traces = []

    @jax.jit
    def scaled(x, values):
        traces.append(1)
        return x * Options().bind(values).strength

    for strength in (0.25, 0.5):
        _, values = Options(strength=strength).split()
        np.testing.assert_allclose(scaled(jnp.ones(3), values), strength)
    assert len(traces) == 1
