"""Blocks that every method's config shares."""

from __future__ import annotations

import ml_collections


def optimizer(
    learning_rate: float, final: float = 0.0, **changes: float
) -> ml_collections.ConfigDict:
    """Adam(W) with linear warm-up and cosine decay; ``weight_decay`` 0 means plain Adam."""
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
    """One stage: length, global batch, HR crop side, EMA decay, optimizer."""
    config = ml_collections.ConfigDict(
        dict(steps=steps, batch=batch, accumulate=1, crop=256, ema=0.999, optimizer=optimizer)
    )
    config.update(more)
    return config


def base() -> ml_collections.ConfigDict:
    """Settings of the run itself."""
    return ml_collections.ConfigDict(
        dict(
            seed=0,
            init="",
            dtype="",
            remat=False,  # blocks are computed again in the backward pass: less memory, more time
            mesh=dict(data=-1, fsdp=1, tensor=1),
            log_every=100,
            panel_every=5000,
            validate_every=5000,
            checkpoint_every=2000,
            keep=dict(last=2, best=0, every=0),  # checkpoints; best: of the lowest LPIPS
            max_bad_steps=10,  # steps in a row that are not finite
            profile=dict(start=10, steps=0),  # a trace of so many steps
            data=dict(
                root="",  # data.sources.open_source; several: "A*0.7;B*0.3"
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
                workers=-1,  # one for each core but one
                threads=2,
            ),
        )
    )


def parse(argument: str | None, defaults: dict[str, str]) -> dict[str, str]:
    """``"small,stage=critic"`` → {"size": "small", "stage": "critic"} over ``defaults``.

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
