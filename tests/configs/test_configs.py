"""Every config loads, fits its method and builds its optimizer."""

import jax.numpy as jnp
import pytest

from configs import common, hardware, realsrt
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig
from maskgit_sr.training import optimizers


@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_every_config_loads(size, stage):
    config = realsrt.get_config(f"{size},stage={stage}")
    assert config.stage_name == stage and config.method == RealSRT.name
    model = RealSRTConfig.from_dict(config.model.to_dict())
    assert model.losses.perceptual == config.perceptual
    assert config.stage.crop % model.tokenizer.factor == 0
    if stage != "tokenizer":  # the token grid is fixed
        assert config.stage.crop == model.tile.size * RealSRT.scale
    optimizer = optimizers.build(config.stage.optimizer, config.stage.steps)
    optimizer.init({"kernel": jnp.zeros((2, 2))})
    rate = optimizers.schedule(config.stage.optimizer, config.stage.steps)
    end, peak = (float(rate(step)) for step in (config.stage.steps, config.stage.optimizer.warmup))
    assert 0 < end <= peak
    assert 0 <= config.stage.ema < 1 and config.checkpoint_every > 0


def test_published_settings_are_the_default():
    config = realsrt.get_config()
    assert config.name == "realsrt-base" and config.stage_name == "tokenizer"
    assert not config.model  # RealSRTConfig's own defaults
    assert config.stage.batch == 64 and config.stage.optimizer.learning_rate == 4e-5


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("huge", "size: expected one of base, small, nano, found 'huge'"),
        ("nano,stage=gan", "stage: expected one of tokenizer, .*, found 'gan'"),
        ("nano,steps=3", "config: unknown option 'steps', expected one of size, stage, hardware"),
        ("hardware=tpu", "hardware: expected one of v5e-8, v5p-128, h100x8, h100x1, found 'tpu'"),
    ],
)
def test_errors_name_the_option(argument, message):
    with pytest.raises(ValueError, match=message):
        realsrt.get_config(argument)


def test_parse():
    defaults = {"size": "base", "stage": "tokenizer"}
    assert common.parse(None, defaults) == common.parse("", defaults) == defaults
    assert common.parse("stage=critic,nano", defaults) == {"size": "nano", "stage": "critic"}
    assert defaults["size"] == "base"


@pytest.mark.parametrize("machine", hardware.HARDWARE)
@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_hardware_sees_as_many_examples(size, stage, machine):
    here = realsrt.get_config(f"{size},stage={stage}")
    there = realsrt.get_config(f"{size},stage={stage},hardware={machine}")
    found = hardware.HARDWARE[machine]
    assert there.mesh.to_dict() == {"data": found.data, "fsdp": found.fsdp, "tensor": 1}
    assert there.dtype == "bfloat16" and there.data.workers > 0
    before, after = here.stage, there.stage
    parts = after.accumulate
    assert after.batch % (found.devices * parts) == 0 and after.batch % found.hosts == 0
    factor = after.batch / before.batch
    assert factor >= 1 and after.batch - before.batch < found.devices
    assert factor == 1 or before.batch % found.devices
    published, seen = before.steps * before.batch, after.steps * after.batch
    # a run of a few hundred steps of a few examples ends at the nearest whole step of the pod's
    assert abs(seen - published) <= max(0.01 * published, after.batch / 2)
    if size == "base":
        assert abs(seen - published) <= 0.01 * published
    for name in ("learning_rate", "final_learning_rate"):
        assert after.optimizer[name] == pytest.approx(before.optimizer[name] * factor)
    assert after.optimizer.warmup == pytest.approx(before.optimizer.warmup / factor, abs=1)
    assert after.ema == pytest.approx(before.ema**factor)
    start = here.model.get("losses", {}).get("adversarial_start", 0)
    if start:
        assert there.model.losses.adversarial_start == round(start / factor)
    rate = optimizers.schedule(after.optimizer, after.steps)
    assert 0 < float(rate(after.steps)) <= float(rate(after.optimizer.warmup))


def test_published_batches_stay_where_they_fit():
    for machine in hardware.HARDWARE:
        batches = [
            realsrt.get_config(f"stage={stage},hardware={machine}").stage.batch
            for stage in realsrt.STAGES
        ]
        assert batches == [64, 64, 64, 64 if machine == "v5p-128" else 8]
    control = realsrt.get_config("stage=control,hardware=v5p-128").stage
    assert control.steps == 10_000 and control.optimizer.learning_rate == pytest.approx(3.2e-4)


def test_without_hardware_nothing_changes():
    for stage in realsrt.STAGES:
        here, there = (realsrt.get_config(f"{o}stage={stage}") for o in ("", "hardware=,"))
        assert here == there and here.mesh.data == -1 and not here.dtype


def test_hours_are_those_of_the_docstring():
    for name, machine in hardware.HARDWARE.items():
        hours = []
        for stage in realsrt.STAGES:
            config = realsrt.get_config(f"stage={stage},hardware={name}").stage
            examples = config.steps * config.batch
            hours.append(hardware.hours(name, realsrt.GFLOP[stage], examples))
        values = [f"{value:.1f}" for value in (*hours, sum(hours))]
        mesh = f"{machine.data}×{machine.fsdp}"
        row = [name, str(machine.devices), mesh, *values]
        assert row in [line.split() for line in (realsrt.__doc__ or "").splitlines()], row
    one = hardware.hours("h100x1", 1000, 989 * 0.4 * 3600)  # one TFLOP an example
    assert one == pytest.approx(1.0)
