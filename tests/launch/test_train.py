"""launch.train: from photographs to a bundle that restores, by one command."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import maskgit_sr
from configs import realsrt
from launch import export_bundle, train
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten
from tests.launch.tiny import STEPS, config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(photos, tiny, losses, tmp_path_factory):
    """A workdir in which every stage has taken its steps."""
    workdir = tmp_path_factory.mktemp("work")
    line = train.train(config("", photos, tiny, losses), workdir, float("inf"))
    assert line.startswith(f"{workdir}/realsrt-nano.safetensors: ") and "not finished" not in line
    return workdir


def groups(workdir, stage):
    params, metadata = bundles.read(workdir / stage / "groups.safetensors")
    return flatten(params), metadata


@pytest.mark.parametrize(
    ("stage", "loss"),
    [
        ("tokenizer", "reconstruction"),
        ("generator", "cross_entropy"),
        ("critic", "binary_cross_entropy"),
        ("control", "reconstruction"),
    ],
)
def test_every_stage_learns(trained, stage, loss):
    lines = (trained / stage / "scalars.jsonl").read_text().splitlines()
    values = [json.loads(line)[f"{stage}/{loss}"] for line in lines]
    assert len(values) == STEPS and np.isfinite(values).all()
    assert np.mean(values[-2:]) < values[0]
    saved = json.loads((trained / f"config-{stage}.json").read_text())
    assert saved["format"] == train.FORMAT and saved["stages"][stage]["steps"] == STEPS
    plan = json.loads((trained / "train.json").read_text())["stages"]
    assert plan[stage] == {"step": STEPS, "steps": STEPS, "finished": True}


def test_a_stage_leaves_the_earlier_ones_alone(trained):
    before, _ = groups(trained, "tokenizer")
    assert {name.split("/")[0] for name in before} == {"tokenizer", "codebook"}
    for stage in ("generator", "critic"):
        assert {name.split("/")[0] for name in groups(trained, stage)[0]} == {stage}
    after, metadata = groups(trained, "control")
    assert {name.split("/")[0] for name in after} == {"control", "tokenizer"}
    changed = {
        name.split("/")[1]
        for name, x in after.items()
        if name in before and (x != before[name]).any()
    }
    assert changed == {"decoder"}  # the part of the tokenizer that the stage trains
    assert list(metadata.training) == sorted(realsrt.STAGES)


def test_exported_bundle_restores_a_picture(trained, tmp_path):
    path = tmp_path / "tiny.safetensors"
    number = export_bundle.export(trained, path, "bfloat16", "CC0-1.0", {"scores": {"a/b": 1.0}})
    metadata = bundles.read_metadata(path)
    assert metadata.licence == "CC0-1.0" and metadata.scores == {"a/b": 1.0}
    assert metadata.method == "realsrt_tuned" and "losses" not in metadata.config
    arrays, _ = bundles.read(path)
    left, _ = bundles.read(trained / "realsrt-nano.safetensors")
    np.testing.assert_equal(flatten(arrays), flatten(left))
    assert number == sum(x.size for x in flatten(arrays).values())
    tuned, _ = groups(trained, "control")
    kernel = "tokenizer/decoder/conv_out/kernel"
    np.testing.assert_allclose(flatten(arrays)[kernel], tuned[kernel], rtol=0.01)
    picture = np.random.default_rng(0).integers(0, 256, (7, 21, 3)).astype(np.uint8)
    result = maskgit_sr.load(path, batch=2)(picture)
    assert result.image.shape == (28, 84, 3) and result.confidence.shape == (7, 21)


def test_a_run_of_some_stages_says_what_a_bundle_needs(trained, photos, tiny, losses, tmp_path):
    shutil.copytree(trained / "tokenizer", tmp_path / "tokenizer")
    some = config("", photos, tiny, losses, order=("tokenizer", "generator"))
    line = train.train(some, tmp_path, float("inf"))
    assert line == "no bundle yet, it needs critic, control"
    some.init = str(trained / "realsrt-nano.safetensors")  # which has the groups that are left out
    line = train.train(some, tmp_path, float("inf"))
    assert line.startswith(f"{tmp_path}/realsrt-nano.safetensors: ")
    for order in ((), ("tokenizer", "gan")):
        wrong = config("", photos, tiny, losses, order=order)
        with pytest.raises(UserError, match="--config.order: expected stages of .*tokenizer"):
            train.train(wrong, tmp_path, 0.0)


def test_export_says_what_is_missing(trained, tmp_path):
    with pytest.raises(UserError, match="no trained stage"):
        export_bundle.export(tmp_path, tmp_path / "x", "float32", "none", {})
    part = tmp_path / "part"
    (part / "tokenizer").mkdir(parents=True)
    (part / "tokenizer" / "groups.safetensors").symlink_to(
        trained / "tokenizer" / "groups.safetensors"
    )
    with pytest.raises(UserError, match="needs trained generator, critic, control"):
        export_bundle.export(part, tmp_path / "x", "float32", "none", {})
    assert not (tmp_path / "x").exists()


def test_no_data_root(tiny, losses, tmp_path):
    with pytest.raises(UserError, match="--config.data.root: expected a folder"):
        train.run_stage(config("tokenizer", "", tiny, losses), "tokenizer", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh.data": 3}, "mesh: .* does not cover 8 devices"),
        (
            {"stages.tokenizer.batch": 12},
            "--config.stages.tokenizer.batch: 12 is no multiple of the mesh's data x fsdp = 8",
        ),
        ({"stages.tokenizer.accumulate": 3}, "8 is no multiple of accumulate x data x fsdp = 24"),
        ({"stages.tokenizer.accumulate": 0}, "accumulate x data x fsdp = 0"),
        (
            {"stages.tokenizer.batch": 16},
            "--config.data: 8 images in .* are fewer than the batch of 16",
        ),
        ({"losses.pixel": "l7"}, "--config.model: losses.pixel: expected one of l1, l2"),
        ({"method": "sr9"}, "--config.model: method: expected one of realsrt, .* found 'sr9'"),
        ({"model.generator.code_width": 7}, "--config.model: generator: expected grid .* found"),
        ({"data.root": "gone"}, "--config.data: data root 'gone': no such folder"),
        ({"data.preset": "heavy"}, "--config.data: preset must be one of"),
        ({"data.margin": 6}, "--config.data: margin must be"),
        ({"data.contrast": 300.0}, "lower these thresholds"),
        ({"data.validation": "gone"}, "--config.data.validation: paired folder 'gone'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    photos, tiny, losses, tmp_path, change, message
):
    changes = {"data.root": str(photos), **change}
    changed = config("tokenizer", photos, tiny, losses, **changes)
    with pytest.raises(UserError, match=message):
        train.run_stage(changed, "tokenizer", tmp_path / "w")


def test_remat_is_no_other_model(trained, photos, tiny, losses):
    """It may be switched on when a resumed run meets less memory."""
    changed = config("tokenizer", photos, tiny, losses, remat=True)
    assert train.run_stage(changed, "tokenizer", trained, 0.0).finished
    metadata = bundles.read_metadata(trained / "tokenizer/groups.safetensors")
    assert "remat" not in str(metadata.config)


def test_a_discriminator_does_not_join_a_run_without(trained, photos, tiny, losses):
    changed = config("tokenizer", photos, tiny, losses)
    changed.losses.adversarial_weight = 0.5
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    message = (
        f"checkpoints/{STEPS}: is of another configuration: .*; "
        "changed since then: .*losses.adversarial_weight .*->"
    )
    for _ in range(2):  # a refused run leaves no trace that would hide the reason from the next
        with pytest.raises(UserError, match=message) as error:
            train.run_stage(changed, "tokenizer", trained)
        assert "\n" not in str(error.value)
        assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_a_workdir_of_another_model_is_refused(trained, photos, tiny, losses):
    changed = config("tokenizer", photos, tiny, losses, **{"model.tokenizer.codes": 24})
    message = (
        r"--workdir .*: holds a run of stage tokenizer with model\.tokenizer\.codes = \d+, .*24"
    )
    with pytest.raises(UserError, match=message):
        train.run_stage(changed, "tokenizer", trained)


def test_a_workdir_of_an_older_format_is_refused(photos, tiny, losses, tmp_path):
    (tmp_path / "config-tokenizer.json").write_text('{"method": "realsrt", "model": {}}')
    with pytest.raises(UserError, match=r"holds a run of an older format \(1, expected 2\)"):
        train.run_stage(config("tokenizer", photos, tiny, losses), "tokenizer", tmp_path)


def test_worker_processes_feed_the_same_training(photos, tiny, losses, trained, tmp_path):
    changed = config("tokenizer", photos, tiny, losses, **{"data.workers": 1})
    assert train.run_stage(changed, "tokenizer", tmp_path).finished
    assert not multiprocessing.active_children()
    alone, together = (
        [json.loads(line) for line in (where / "tokenizer/scalars.jsonl").read_text().splitlines()]
        for where in (trained, tmp_path)
    )
    for a, b in zip(alone, together, strict=True):
        assert a["tokenizer/reconstruction"] == b["tokenizer/reconstruction"]


def test_validation_tiles_are_the_centres(method, tmp_path):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (96, 80, 3)).astype(np.uint8)
    (tmp_path / "hr").mkdir()
    cv2.imwrite(str(tmp_path / "hr" / "a.png"), large)
    cv2.imwrite(str(tmp_path / "hr" / "small.png"), large[:32, :32])
    batch = train.validation_batch(str(tmp_path), method, 5)
    assert batch["lr"].shape == (1, 16, 16, 3) and batch["hr"].shape == (1, 64, 64, 3)
    expected = large[16:80, 8:72, ::-1] / 255.0
    np.testing.assert_allclose(batch["hr"][0], expected, atol=1e-6)
    small = expected.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert abs(batch["lr"][0] - small).mean() < 0.1
    with pytest.raises(UserError, match="no validation image with sides of at least 16"):
        (tmp_path / "hr" / "a.png").unlink()
        train.validation_batch(str(tmp_path), method, 5)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (
            "launch.train",
            ["--config", "configs/realsrt.py:nano", "--workdir", "{tmp}"],
            "launch.train: --config.data.root: expected a folder of photographs, a list, shards or "
            "tfds:NAME, found nothing",
        ),
        (
            "launch.train",
            ["--config", "configs/realsrt.py:nano", "--config.stages.critic.steps=x"],
            "launch.train: flag --config.stages.critic.steps=x: invalid literal",
        ),
        ("launch.train", ["--config=configs/subpixel.py"], "launch.train: --workdir: expected a"),
        (
            "launch.train",
            ["--config=configs/subpixel.py", "--workdir={tmp}", "--max_seconds=nan"],
            "launch.train: --max_seconds: expected 0 or more, found nan",
        ),
        (
            "launch.export_bundle",
            ["--workdir", "{tmp}", "--output", "{tmp}/x.safetensors"],
            "launch.export_bundle: {tmp}: no trained stage",
        ),
    ],
)
def test_a_mistake_is_one_line(module, arguments, message, tmp_path):
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(message.format(tmp=tmp_path))
