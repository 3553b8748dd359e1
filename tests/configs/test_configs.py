"""Every config loads, fits its method and builds its optimizer."""

import jax.numpy as jnp
import pytest

from configs import common, hardware, iter, realsrt, sr_maskgit, structure, subpixel
from launch import settings
from maskgit_sr.methods import registry
from maskgit_sr.training import optimizers

CONFIGS = [(realsrt, size) for size in realsrt.SIZES] + [(structure, ""), (subpixel, "")]
CONFIGS += [
    (sr_maskgit, f"{size},method={method}")
    for size in sr_maskgit.SIZES
    for method in sr_maskgit.METHODS
] + [(sr_maskgit, "nano,control=1")]
CONFIGS += [(iter, f"{size},scale={scale}") for size in iter.SIZES for scale in (2, 4)]


@pytest.mark.parametrize(("module", "argument"), CONFIGS)
def test_every_config_loads(module, argument):
    config = module.get_config(argument)
    losses = settings.losses(config)
    method = registry.build(config.method, config.model.to_dict(), None, losses)
    assert config.order == tuple(method.stages) and set(config.order) == set(config.stages)
    assert config.checkpoint_every > 0
    for name, stage in method.stages.items():
        found = config.stages[name]
        assert found.crop % method.scale == 0 and 0 <= found.ema < 1 and found.share > 0
        fixed = ("lr" in stage.batch and module is realsrt) or "transformer" in stage.trains
        if fixed:  # the token grid is
            assert found.crop == method.tile.sides[0] * method.scale
        made = optimizers.for_groups(found, stage.trains)
        assert set(made) == set(stage.trains)
        for optimizer in made.values():
            optimizer.init({"kernel": jnp.zeros((2, 2))})
        rate = optimizers.schedule(found.optimizer, found.steps)
        end, peak = (float(rate(step)) for step in (found.steps, found.optimizer.warmup))
        assert 0 < end <= peak
        alone = module.get_config(",".join(filter(None, (argument, f"stage={name}"))))
        assert alone.order == (name,) and alone.stages == config.stages


def test_published_settings_are_the_default():
    config = realsrt.get_config()
    assert config.name == "realsrt-base" and config.method == "realsrt"
    assert not config.model and not config.losses  # the method's own defaults
    tokenizer = config.stages.tokenizer
    assert tokenizer.batch == 64 and tokenizer.optimizer.learning_rate == 4e-5


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("huge", "size: expected one of base, nano, found 'huge'"),
        ("nano,stage=gan", "stage: expected one of tokenizer, .*, found 'gan'"),
        ("nano,steps=3", "config: unknown option 'steps', expected one of size, stage, hardware"),
        ("hardware=tpu", "hardware: expected one of v5e-8, v5p-128, h100x8, h100x1, found 'tpu'"),
    ],
)
def test_errors_name_the_option(argument, message):
    with pytest.raises(ValueError, match=message):
        realsrt.get_config(argument)


def test_methods_of_sr_maskgit():
    base = sr_maskgit.get_config()
    assert (base.method, base.name) == ("sr_maskgit_correction", "sr_maskgit_correction-base")
    assert base.order == ("tokenizer", "prior", "correction")
    assert sr_maskgit.get_config("nano,method=inpainting").order == ("tokenizer", "prior")
    with pytest.raises(ValueError, match="method: expected one of correction, inpainting, found"):
        sr_maskgit.get_config("nano,method=joined")
    with pytest.raises(ValueError, match="size: expected one of base, small, nano, found 'huge'"):
        sr_maskgit.get_config("huge")
    assert sr_maskgit.get_config("nano,control=1").order[-1] == "control"
    with pytest.raises(ValueError, match="control: expected 0 or 1, found 'yes'"):
        sr_maskgit.get_config("nano,control=yes")


def test_parse():
    defaults = {"size": "base", "stage": "tokenizer"}
    assert common.parse(None, defaults) == common.parse("", defaults) == defaults
    assert common.parse("stage=critic,nano", defaults) == {"size": "nano", "stage": "critic"}
    assert defaults["size"] == "base"


@pytest.mark.parametrize("machine", hardware.HARDWARE)
@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_hardware_sees_as_many_examples(size, stage, machine):
    here = realsrt.get_config(size)
    there = realsrt.get_config(f"{size},hardware={machine}")
    found = hardware.HARDWARE[machine]
    assert there.mesh.to_dict() == {"data": found.data, "fsdp": found.fsdp, "tensor": 1}
    assert there.dtype == "bfloat16" and there.data.workers > 0
    before, after = here.stages[stage], there.stages[stage]
    count = after.accumulate
    assert after.batch % (found.devices * count) == 0 and after.batch % found.hosts == 0
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
    rate = optimizers.schedule(after.optimizer, after.steps)
    assert 0 < float(rate(after.steps)) <= float(rate(after.optimizer.warmup))


def test_the_gan_starts_after_as_many_examples():
    config = realsrt.get_config()
    config.losses.adversarial_start = 20_000
    hardware.apply(config, "v5p-128")  # the control stage has 8 times its examples a step
    starts = {stage: settings.losses(config, stage)["adversarial_start"] for stage in config.order}
    assert starts == dict.fromkeys(realsrt.STAGES, 20_000) | {"control": 2500}


def test_published_batches_stay_where_they_fit():
    for machine in hardware.HARDWARE:
        config = realsrt.get_config(f"hardware={machine}")
        batches = [config.stages[stage].batch for stage in realsrt.STAGES]
        assert batches == [64, 64, 64, 64 if machine == "v5p-128" else 8]
    control = realsrt.get_config("hardware=v5p-128").stages.control
    assert control.steps == 10_000 and control.optimizer.learning_rate == pytest.approx(3.2e-4)


def test_microbatches_of_base_fit_the_memory():
    """What the table of FITS gives: 4 microbatches of token stages, 2 of control on an H100."""
    counts = {
        machine: [
            realsrt.get_config(f"hardware={machine}").stages[s].accumulate for s in realsrt.STAGES
        ]
        for machine in hardware.HARDWARE
    }
    assert counts["v5e-8"] == [4, 4, 4, 1] and counts["h100x1"] == [4, 4, 4, 2]
    assert counts["v5p-128"] == counts["h100x8"] == [1, 1, 1, 1]
    assert hardware.microbatches(64, 8, 100.0) == 1 and hardware.microbatches(24, 1, 5) == 6


def test_without_hardware_nothing_changes():
    here, there = (realsrt.get_config(o) for o in ("", "hardware=,"))
    assert here == there and here.mesh.data == -1 and not here.dtype
