"""benchmarks.training: a run of it on a tiny network."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import data, steps, training
from benchmarks.roofline import Limits
from maskgit_sr.arrays import Execution

LIMITS = Limits("toy", "gpu", 1e12, 1e12)


def rows(text):
    """The rows of a printed table by the names of its columns."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def test_a_run(tiny_sizes, run, monkeypatch, capsys):
    monkeypatch.setattr(data, "rate", lambda photos, spec, *rest, **more: float(spec.crop))
    monkeypatch.setattr(training.roofline, "limits", lambda *rest: LIMITS)
    arguments = ["--stages", "generator", "--steps", "2", "--repeats", "1", "--photos", "P"]
    assert run(training, *arguments) == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["stage"], row["dtype"], row["batch"]) == ("generator", "float32", "2")
    rate = float(row["examples/s"])
    assert rate == pytest.approx(2e3 / float(row["ms a step"]), rel=1e-2)
    assert float(row["workers to keep up"]) == pytest.approx(rate / 64, abs=0.051)
    gflop, milliseconds = float(row["GFLOP"]), float(row["ms a step"])
    assert float(row["TFLOP/s"]) == pytest.approx(gflop / milliseconds, rel=1e-2) and gflop > 0
    assert float(row["GB"]) > 0


def test_the_input_is_that_of_the_stage(tiny_sizes, monkeypatch):
    """A tokenizer sees photographs as they are; the other stages see degraded ones."""
    monkeypatch.setattr(data, "rate", lambda photos, spec, *rest, **more: spec)
    config = training.config_of("base", None, None)
    config.data.margin = 16
    found = {name: training.input_rate("P", config, name, 1.0) for name in config.stages}
    settings = {name: (spec.preset, spec.margin, spec.crop) for name, spec in found.items()}
    degraded = (config.data.preset, 16, 64)
    assert settings == {
        "tokenizer": ("none", 0, 64),
        "generator": degraded,
        "critic": degraded,
        "control": degraded,
    }


def test_the_gan_takes_part_from_the_first_step_on(tiny_sizes):
    """Both of its phases move: the discriminator learns, and the adaptive weight is there."""
    config = training.config_of("base", None, None)
    assert config.losses.adversarial_start == 0
    made = steps.abstract(config, "tokenizer", Execution())
    begun, frozen = training.begin(made, config.seed)
    before = jax.tree.map(jnp.copy, begun.params["discriminator"])
    images = {name: jnp.ones(shape.shape) for name, shape in made.batch(2).items()}
    lowered = made.jitted().lower(begun, frozen, images)
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    after, metrics = compiled(begun, frozen, images)
    assert metrics["tokenizer/adaptive_weight"] > 0 and int(after.skipped) == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after.params["discriminator"])
    assert any(jax.tree.leaves(moved))


def test_the_batch_and_its_parts_are_the_configs_unless_given(tiny_sizes):
    assert training.config_of("base", None, None).stages.critic.batch == 2
    found = training.config_of("base", 8, 4).stages.critic
    assert (found.batch, found.accumulate) == (8, 4)


def test_a_stage_that_does_not_fit_does_not_end_the_run(tiny_sizes, run, monkeypatch, capsys):
    def full(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(training, "step_seconds", full)
    monkeypatch.setattr(training.roofline, "limits", lambda *rest: LIMITS)
    assert run(training, "--stages", "critic", "control") == 0
    found = [
        (row["stage"], row["batch"], row["ms a step"]) for row in rows(capsys.readouterr().out)
    ]
    said = "does not fit into the device's memory"
    assert found == [("critic", "2", said), ("control", "2", said)]


def test_parts_that_do_not_divide_the_batch(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(training, "--stages", "control", "--accumulate", "3")
    said = capsys.readouterr().err
    assert said == "benchmarks.training: --accumulate: 3 does not divide the batch of 8\n"
