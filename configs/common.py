"""Blocks shared by all methods' configs, and a one-line meaning of each of their fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ml_collections

MEANINGS = {
    "name": "name of the model, and of the bundle that a run leaves",
    "method": "name in maskgit_sr.methods.registry",
    "order": "stages that the run trains, in this order",
    "seed": "seed of every random choice",
    "init": "bundle (or name of one that ships) whose weights the run goes on from; '': none",
    "dtype": "compute dtype, float32 or bfloat16; '': by device",
    "remat": "compute blocks again in the backward pass: less memory, more time",
    "mesh.data": "devices over which the batch is split; -1: all that are left",
    "mesh.fsdp": "devices over which batch, parameters and optimizer state are split",
    "mesh.tensor": "devices over which matrix products are split",
    "logger": "where scalars and panels go: tensorboard, jsonl, wandb, or several with commas",
    "log_every": "steps between two lines of scalars",
    "panel_every": "steps between two drawings of validation images",
    "validate_every": "steps between two scores of validation images",
    "checkpoint_every": "steps between two checkpoints",
    "keep.last": "newest checkpoints that stay",
    "keep.best": "checkpoints of the lowest validation LPIPS that stay",
    "keep.every": "checkpoints of every N-th step stay; 0: none",
    "max_bad_steps": "non-finite steps in a row that end the run",
    "profile.start": "first step of the trace",
    "profile.steps": "steps of the trace; 0: none",
    "data.root": "photographs: folder, list, shards, LR/HR pairs, tfds:NAME, or 'A*0.7;B*0.3'",
    "data.validation": "folder with lr/ and hr/, or hr/ alone; '': no validation",
    "data.validation_limit": "validation images at most",
    "data.preset": "degradation: a name in data.degradations.PRESETS, or 'web*0.7;lens*0.3'",
    "data.margin": "HR pixels that are degraded beside those that are kept",
    "data.zoom": "range of the enlargement of HR crops before they are degraded",
    "data.sharpen": "sharpen the HR crop, as Real-ESRGAN does",
    "data.small": "images smaller than a crop: pad or skip",
    "data.contrast": "least contrast of a crop, in levels of 255",
    "data.sharpness": "least sharpness of a crop",
    "data.cache": "keep decoded photographs in memory, up to data.cache_gb",
    "data.cache_gb": "10^9 bytes of decoded photographs at most, of all workers of a host together",
    "data.workers": "worker processes of a host; -1: one for each core but one",
    "data.threads": "reading threads",
    "stages.*.steps": "length in steps",
    "stages.*.batch": "global batch",
    "stages.*.accumulate": "microbatches that a batch is worked through in",
    "stages.*.crop": "side of the HR crop in pixels",
    "stages.*.ema": "decay of the moving average of the weights",
    "stages.*.share": "share of the time box of a run of all stages",
    "stages.*.losses": "what is different from config.losses in this stage",
    "stages.*.optimizers*": "what is different for single groups, {group: {field: value}}",
    "stages.*.optimizer.learning_rate": "highest learning rate",
    "stages.*.optimizer.final_learning_rate": "learning rate after the last step",
    "stages.*.optimizer.warmup": "steps of the linear warm-up",
    "stages.*.optimizer.b1": "Adam's decay of the mean gradient",
    "stages.*.optimizer.b2": "Adam's decay of the mean square",
    "stages.*.optimizer.weight_decay": "decoupled decay of matrices; 0: plain Adam",
    "stages.*.optimizer.clip": "largest global norm of the gradient; 0: no limit",
}
"""Meanings by path; ``*`` stands for any name. Fields of ``model`` and ``losses`` are documented in
the method's own dataclasses."""


def optimizer(
    learning_rate: float, final: float = 0.0, **changes: float
) -> ml_collections.ConfigDict:
    """Returns settings of AdamW with linear warm-up and cosine decay, by default plain Adam.

    Args:
        final: learning rate after the last step.
        **changes: other fields, such as ``warmup``, ``weight_decay`` and ``clip``.
    """
    config = ml_collections.ConfigDict(
        dict(
            learning_rate=learning_rate,
            final_learning_rate=final,
            warmup=0,
            b1=0.9,
            b2=0.999,
            weight_decay=0.0,
            clip=0.0,
        )
    )
    config.update(changes)
    return config


def stage(
    steps: int, batch: int, optimizer: ml_collections.ConfigDict, **more: object
) -> ml_collections.ConfigDict:
    """Returns the settings of one stage; ``more`` overrides the other fields."""
    config = ml_collections.ConfigDict(
        dict(
            steps=steps,
            batch=batch,
            accumulate=1,
            crop=256,
            ema=0.999,
            share=1.0,
            losses=ml_collections.ConfigDict(),
            optimizer=optimizer,
            optimizers=ml_collections.ConfigDict(),
        )
    )
    config.update(more)
    return config


def base() -> ml_collections.ConfigDict:
    """Returns the settings that do not depend on a method; see `MEANINGS`."""
    return ml_collections.ConfigDict(
        dict(
            seed=0,
            init="",
            dtype="",
            remat=False,
            model=ml_collections.ConfigDict(),
            losses=ml_collections.ConfigDict(),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            logger="tensorboard,jsonl",
            log_every=100,
            panel_every=5000,
            validate_every=5000,
            checkpoint_every=2000,
            keep=dict(last=2, best=0, every=0),  # two, since one may be damaged
            max_bad_steps=10,
            profile=dict(start=10, steps=0),
            data=dict(
                root="",
                validation="",
                validation_limit=16,
                preset="realesrgan",
                margin=144,  # so that 400 pixels are degraded for a crop of 256
                zoom=(1.0, 1.0),
                sharpen=False,
                small="pad",
                contrast=2.0,  # skies and walls without any texture teach nothing
                sharpness=0.0,
                cache=False,
                cache_gb=2.0,
                workers=-1,
                threads=2,
            ),
        )
    )


def parse(argument: str | None, defaults: dict[str, str]) -> dict[str, str]:
    """Returns ``defaults`` updated by, say, ``"small,stage=critic"``; a bare word is the size.

    Raises:
        ValueError: an option that is not in ``defaults``.
    """
    options = dict(defaults)
    for part in filter(None, (argument or "").split(",")):
        name, _, value = part.rpartition("=")
        name = name or "size"
        if name not in defaults:
            raise ValueError(
                f"config: unknown option {name!r}, expected one of {', '.join(defaults)}"
            )
        options[name] = value
    return options


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError if ``value`` is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")


def choose(
    config: ml_collections.ConfigDict, stages: Mapping[str, ml_collections.ConfigDict], stage: str
) -> None:
    """Gives a config its stages in order, or one of them alone if ``stage`` is not "".

    Raises:
        ValueError: an unknown stage.
    """
    if stage:
        check_choice("stage", stage, stages)
    config.stages = ml_collections.ConfigDict(dict(stages))
    config.order = (stage,) if stage else tuple(stages)
