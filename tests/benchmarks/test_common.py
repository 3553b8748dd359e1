"""benchmarks.common: timing, tables and options."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import common, restoration, training


def test_short_calls_are_timed_in_a_row():
    calls = []
    add = jax.jit(lambda x: x + 1)

    def call():
        calls.append(1)
        return add(jnp.ones(3))

    assert 0 < common.seconds(call, repeats=2) < 0.02
    assert len(calls) > 4  # one compiles, one tells how many fill a measurement, two measure


def test_tables():
    text = common.table("a|b", [("x", 1), ("y", None)])
    assert text == "| a | b |\n|---|--:|\n| x | 1 |\n| y | – |"


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (restoration, ["--sides", "0"], "--sides: expected at least 1, found 0"),
        (restoration, ["--repeats", "0"], "--repeats: expected at least 1, found 0"),
        (restoration, ["--sizes", "huge"], "--sizes: invalid choice"),
        (restoration, ["--dtypes", "int8"], "--dtypes: invalid choice"),
        (restoration, ["--sizes", "nano", "--reference", "."], "the public code is base"),
        (training, ["--batch", "0"], "--batch: expected at least 1, found 0"),
        (training, ["--steps", "0"], "--steps: expected at least 1, found 0"),
        (training, ["--stages", "decoder"], "--stages: invalid choice"),
    ],
)
def test_mistakes(run, capsys, module, arguments, said):
    with pytest.raises(SystemExit) as ended:
        run(module, *arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err
