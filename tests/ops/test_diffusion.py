"""ops.diffusion: schedules of the public code, their ends, respacing."""

import numpy as np
import pytest

from maskgit_sr.ops import diffusion
from tests.models.sr3_oracle import golden


@pytest.mark.parametrize("kind", diffusion.KINDS)
def test_public_numbers(kind):
    expected = golden()[f"betas/{kind}"]
    found = diffusion.betas(kind, 40, 1e-4, 0.2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    gammas = diffusion.gammas(kind, 40, 1e-4, 0.2)
    np.testing.assert_allclose(gammas, [1, *np.cumprod(1 - expected)], rtol=0, atol=1e-12)
    assert (np.diff(gammas) < 0).all()


def test_fewer_steps_need_a_larger_end():
    """γ_T of the training's ends, and the ends that fit: 3.6 of the paper's analysis."""
    ends = {1000: 0.007, 500: 0.08, 100: 0.61}
    for steps, end in ends.items():
        assert diffusion.gammas("linear", steps, 1e-6, 1e-2)[-1] == pytest.approx(end, rel=0.06)
    whole = diffusion.gammas("linear", 2000, 1e-6, 1e-2)[-1]
    assert whole == pytest.approx(4.4e-5, rel=0.02)
    fitting = {1000: 0.020, 500: 0.040, 200: 0.097, 100: 0.187, 50: 0.35}
    for steps, end in fitting.items():
        found = diffusion.fitting_end("linear", steps, 1e-6, whole)
        assert found == pytest.approx(end, rel=0.03)
        assert diffusion.gammas("linear", steps, 1e-6, found)[-1] == pytest.approx(whole, rel=1e-6)


def test_respaced():
    gammas = diffusion.gammas("linear", 2000, 1e-6, 1e-2)
    found = diffusion.respaced(gammas, 100)
    np.testing.assert_array_equal(found, gammas[::20])
    np.testing.assert_array_equal(diffusion.respaced(gammas, 2000), gammas)
    np.testing.assert_array_equal(diffusion.respaced(gammas, 1), gammas[[0, -1]])
    assert len(set(diffusion.respaced(gammas, 1999))) == 2000
    for steps in (0, 2001):
        with pytest.raises(ValueError, match=f"steps: expected 1 to 2000, .* found {steps}"):
            diffusion.respaced(gammas, steps)


def test_ends_that_are_no_noise_or_nothing_are_refused():
    diffusion.check_end(diffusion.gammas("linear", 2000, 1e-6, 1e-2), "it")
    with pytest.raises(ValueError, match=r"it ends at γ 0\.61, which is no noise"):
        diffusion.check_end(diffusion.gammas("linear", 100, 1e-6, 1e-2), "it")
    with pytest.raises(ValueError, match="it ends at γ 0; expected at least 1e-12"):
        diffusion.check_end(diffusion.gammas("jsd", 100, 1e-6, 1e-2), "it")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("sine", 10, 1e-6, 1e-2), "schedule: expected one of linear, .* found 'sine'"),
        (("linear", 0, 1e-6, 1e-2), "steps: expected at least 1, found 0"),
        (("linear", 10, 0.0, 1e-2), "beta_start: expected above 0 and below 1, found 0"),
        (("linear", 10, 1e-6, float("nan")), "beta_end: expected above 0 and below 1, found nan"),
    ],
)
def test_bad_schedules(given, named):
    with pytest.raises(ValueError, match=named):
        diffusion.betas(*given)
