"""Every config loads, fits its method and builds its optimizer."""

import jax.numpy as jnp
import pytest

from configs import common, realsrt
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
        ("nano,steps=3", "config: unknown option 'steps', expected one of size, stage"),
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
