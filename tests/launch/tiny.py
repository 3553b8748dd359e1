"""A training run of seconds."""

import dataclasses

import ml_collections

from configs import realsrt

STEPS = 6


def config(stage, root, tiny, **changes):
    """The nano config of a stage with the tiny networks and a handful of steps."""
    found = realsrt.get_config(f"nano,stage={stage}")
    found.model = ml_collections.ConfigDict(dataclasses.asdict(tiny))
    found.model.losses.update(adversarial_weight=0.0, tune_decoder=True)
    found.perceptual = "none"
    found.data.update(root=str(root), threads=0)
    found.stage.update(steps=STEPS, batch=8, crop=32 if stage == "tokenizer" else 64, ema=0.5)
    found.stage.optimizer.update(learning_rate=3e-3, warmup=0)
    found.log_every = 1
    found.update_from_flattened_dict(changes)
    return found
