"""A training run of seconds."""

import dataclasses

import ml_collections

from configs import realsrt

STEPS = 6


def config(stage, root, tiny, losses, **changes):
    """The nano config of a stage ("": of all) with the tiny networks and a handful of steps."""
    found = realsrt.get_config(f"nano,stage={stage}")
    found.model = ml_collections.ConfigDict(dataclasses.asdict(tiny))
    found.losses = ml_collections.ConfigDict(dataclasses.asdict(losses) | {"bypass": 0.5})
    found.losses.adversarial_weight = 0.0
    found.data.update(root=str(root), threads=0)
    for name, settings in found.stages.items():
        settings.update(steps=STEPS, batch=8, crop=32 if name == "tokenizer" else 64, ema=0.5)
        settings.optimizer.update(learning_rate=3e-3, warmup=0)
    found.log_every = 1
    found.update_from_flattened_dict(changes)
    return found
