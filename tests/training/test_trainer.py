"""training.loop: exact resumption, the time box, the order of stages and broken steps.

All four stages are run by tests/launch.
"""

import json
import os
import signal

import numpy as np
import pytest

from configs import common
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.models.functional import flatten
from maskgit_sr.training.loop import Trainer
from maskgit_sr.training.watch import TrainingStopped


class Killed(BaseException):
    """What nothing in the trainer catches."""


@pytest.fixture(scope="module")
def make(method, batches):
    """Makes trainers of the tiny method; of the smallest one for its stage ``pretrain``."""

    def make(workdir, stage, iterator=None, validate=None, panel=None, **changes):
        trained, scale = (Subpixel(), 2) if stage == "pretrain" else (method, 4)
        config = common.base()
        settings = common.stage(6, 8, common.optimizer(3e-3, 1e-3), crop=32, ema=0.9)
        config.stages = {stage: settings}
        config.update(log_every=1, checkpoint_every=3)
        config.update_from_flattened_dict(changes)
        iterator = batches(scale=scale) if iterator is None else iterator
        return Trainer(trained, stage, config, workdir, iterator, validate, panel)

    return make


def scalars(workdir, stage):
    lines = (workdir / stage / "scalars.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def groups(outcome):
    params, metadata = bundles.read(outcome.groups)
    return flatten(params), metadata


def losses(workdir, stage):
    """What the steps measured, without anything that a clock has measured."""
    timed = ("examples_per_second", "input_wait_share", "tflops_per_device")
    return [{k: v for k, v in line.items() if k not in timed} for line in scalars(workdir, stage)]


@pytest.fixture(scope="module")
def finished(make, batches, tmp_path_factory):
    """A workdir with the tokenizer (with its GAN) trained for six steps in one go."""
    workdir = tmp_path_factory.mktemp("run")
    seen = []

    def validate(groups):
        seen.append(sorted(groups))
        return {"score": 1.0}

    outcome = make(workdir, "tokenizer", None, validate, next(batches()), panel_every=6).run()
    assert seen == [["codebook", "tokenizer"]]
    return workdir, outcome


@pytest.fixture
def whole(finished, make, tmp_path_factory):
    """The workdir and outcome of six steps of a stage in one go."""

    def whole(stage):
        if stage == "tokenizer":
            return finished
        workdir = tmp_path_factory.mktemp("whole")
        return workdir, make(workdir, stage).run()

    return whole


def test_a_finished_stage(finished, method):
    workdir, outcome = finished
    assert outcome.finished and outcome.step == 6
    params, metadata = groups(outcome)
    expected = flatten({g: method.shapes()[g] for g in ("tokenizer", "codebook")})
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in expected.items()}
    facts = metadata.training["tokenizer"]
    assert facts["steps"] == 6 and facts["batch"] == 8 and facts["seconds"] > 0
    lines = scalars(workdir, "tokenizer")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    assert lines[-1] == {"step": 6, "validation/score": 1.0}
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert {"tokenizer/adaptive_weight", "discriminator/real", "tokenizer/perplexity"} <= set(
        lines[0]
    )
    first, last = (lines[i]["tokenizer/reconstruction"] for i in (0, 5))
    assert last < 0.8 * first


@pytest.mark.parametrize(
    ("trouble", "stage"),
    [(Killed, "tokenizer"), (Killed, "pretrain"), (KeyboardInterrupt, "pretrain")],
)
def test_a_stopped_run_goes_on_bit_for_bit(whole, make, tmp_path, trouble, stage):
    """Interrupted after step 4, where the state is saved; or killed there, and step 4 is redone."""
    workdir, undisturbed = whole(stage)

    def stop(groups):
        raise trouble

    with pytest.raises(trouble):
        make(tmp_path, stage, validate=stop, validate_every=4).run()
    assert not (tmp_path / stage / "groups.safetensors").exists()
    outcome = make(tmp_path, stage).run()
    steps = [line["step"] for line in losses(tmp_path, stage)]
    assert steps == [1, 2, 3, 4, 5, 6] if trouble is KeyboardInterrupt else [1, 2, 3, 4, 4, 5, 6]
    assert losses(tmp_path, stage)[-1] == losses(workdir, stage)[5]
    found, expected = groups(outcome)[0], groups(undisturbed)[0]
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_finished_stage_is_not_trained_again(finished, make):
    workdir, before = finished
    expected = groups(before)
    again = make(workdir, "tokenizer").run()
    assert again.step == 6 and again.finished
    np.testing.assert_equal(groups(again)[0], expected[0])


def test_the_time_box(make, tmp_path):
    outcome = make(tmp_path, "tokenizer").run(max_seconds=0)
    assert outcome.step == 0 and not outcome.finished and outcome.groups.exists()


def test_stages_come_in_order(finished, make, tmp_path):
    workdir, _ = finished
    with pytest.raises(UserError, match="needs trained tokenizer, codebook: run the earlier"):
        make(tmp_path, "generator").run()
    with pytest.raises(UserError, match="needs trained generator: "):
        make(workdir, "critic").run()
    with pytest.raises(UserError, match="stage: expected one of tokenizer, .*, found 'gan'"):
        make(tmp_path, "gan")


def test_a_broken_step_is_skipped_and_counted(make, batches, tmp_path):
    outcome = make(tmp_path, "pretrain", batches(broken=3, scale=2)).run()
    assert outcome.finished
    assert all(np.isfinite(array).all() for array in groups(outcome)[0].values())
    lines = scalars(tmp_path, "pretrain")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert [line["in_a_row"] for line in lines] == [0, 0, 0, 1, 0, 0]
    assert not np.isfinite(lines[3]["filter/pixel"])


def test_too_many_broken_steps_stop_the_run_and_name_the_examples(make, batches, tmp_path):
    def spoiled():
        for number, batch in enumerate(batches(scale=2)):
            index = np.arange(8) + 8 * number
            spoil = np.nan if number >= 2 else 1
            yield {"index": index, **{name: x * np.float32(spoil) for name, x in batch.items()}}

    class Data:
        """Has a state, as grain's iterators have."""

        def __init__(self):
            self.it = spoiled()

        def __next__(self):
            return next(self.it)

        def get_state(self):
            return b"0"

    with pytest.raises(TrainingStopped, match="2 steps in a row were not finite") as error:
        options = {"max_bad_steps": 2, "stages.pretrain.steps": 20, "checkpoint_every": 2}
        make(tmp_path, "pretrain", Data(), **options).run()
    assert str(error.value).endswith(
        "examples (index) of step 3: 16, 17, 18, 19, 20, 21, 22, 23; "
        "step 4: 24, 25, 26, 27, 28, 29, 30, 31"
    )
    assert not (tmp_path / "pretrain" / "groups.safetensors").exists()
    # What was saved meanwhile is the state of step 2: broken steps change nothing.
    assert (tmp_path / "pretrain" / "checkpoints" / "4").is_dir()


def test_sigterm_saves_and_the_next_run_goes_on_bit_for_bit(whole, make, tmp_path):
    _, undisturbed = whole("pretrain")
    before = signal.getsignal(signal.SIGTERM)

    def terminate(groups):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    stopped = make(tmp_path, "pretrain", validate=terminate, validate_every=4).run()
    assert stopped.step == 4 and not stopped.finished
    assert signal.getsignal(signal.SIGTERM) is before
    outcome = make(tmp_path, "pretrain").run()
    steps = [line["step"] for line in scalars(tmp_path, "pretrain") if len(line) > 1]
    assert steps == [1, 2, 3, 4, 5, 6]
    for name, array in groups(undisturbed)[0].items():
        np.testing.assert_array_equal(groups(outcome)[0][name], array, err_msg=name)


def test_the_best_checkpoint_stays(make, tmp_path):
    scores = iter([0.5, 0.2, 0.4, 0.6, 0.7, 0.9])
    options = {"validate_every": 1, "checkpoint_every": 100, "keep.best": 1, "keep.last": 1}
    make(tmp_path, "pretrain", None, lambda groups: {"lpips": next(scores)}, **options).run()
    kept = sorted(p.name for p in (tmp_path / "pretrain" / "checkpoints").iterdir() if p.is_dir())
    assert kept == ["2", "6"]


def test_a_trace_of_chosen_steps(make, tmp_path):
    make(tmp_path, "pretrain", **{"profile.start": 2, "profile.steps": 1}).run()
    assert list((tmp_path / "pretrain" / "profile").rglob("*.xplane.pb"))


def test_a_run_goes_on_from_another_runs_bundle(finished, make, tmp_path):
    """--config.init: weights and codebook are the other run's, step and optimizer are fresh."""
    _, other = finished
    init = {"init": str(other.groups)}
    outcome = make(tmp_path / "whole", "tokenizer", **init).run(max_seconds=0)
    expected, found = groups(other)[0], groups(outcome)[0]
    assert outcome.step == 0 and found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    again = make(tmp_path / "more", "tokenizer", **init).run()
    first = scalars(tmp_path / "more", "tokenizer")[0]["tokenizer/reconstruction"]
    fresh = scalars(finished[0], "tokenizer")[0]["tokenizer/reconstruction"]
    assert again.finished and first < 0.9 * fresh


def test_a_group_of_another_shape_starts_anew(finished, make, tmp_path, caplog):
    """A bundle's tokens under another kind of module, say; told in the log."""
    _, other = finished
    params, head = bundles.read(other.groups)
    wider = params["tokenizer"] | {"quant_conv": {"kernel": np.ones((1, 1, 16, 20), np.float32)}}
    bundles.write(tmp_path / "other.safetensors", params | {"tokenizer": wider}, head)
    caplog.set_level("INFO")
    init = {"init": str(tmp_path / "other.safetensors")}
    found = groups(make(tmp_path / "a", "tokenizer", **init).run(max_seconds=0))[0]
    fresh = groups(make(tmp_path / "b", "tokenizer").run(max_seconds=0))[0]
    assert "other.safetensors: its tokenizer has other shapes, starts anew" in caplog.text
    expected = groups(other)[0]
    for name, array in found.items():
        same = expected if name.startswith("codebook/") else fresh
        np.testing.assert_array_equal(array, same[name], err_msg=name)


def test_a_later_stage_takes_the_earlier_ones_from_a_bundle(finished, make, tmp_path):
    _, other = finished
    outcome = make(tmp_path, "generator", **{"init": str(other.groups)}).run(max_seconds=0)
    assert {name.split("/")[0] for name in groups(outcome)[0]} == {"generator"}
    assert "tokenizer" in groups(outcome)[1].training


def test_a_bundle_to_go_on_from_that_is_not_there(make, tmp_path):
    with pytest.raises(UserError, match="nowhere.safetensors"):
        make(tmp_path, "tokenizer", **{"init": str(tmp_path / "nowhere.safetensors")}).run()
