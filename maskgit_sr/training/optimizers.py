"""Optimizers and learning-rate schedules by configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import jax
import optax


def schedule(config: Any, steps: int) -> optax.Schedule:
    """Returns a linear warm-up, then a cosine from ``learning_rate`` to the final one.

    Args:
        config: ``learning_rate``, ``final_learning_rate`` and ``warmup`` in steps.
        steps: length of the whole schedule, warm-up included.
    """
    found = optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup else config.learning_rate,
        config.learning_rate,
        config.warmup,
        max(steps, config.warmup + 1),  # optax refuses a cosine of no steps
        config.final_learning_rate,
    )
    return _promoting(found)


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of optax that runs under standard dtype promotion."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 and integer counts
            return function(*args)

    return call


def _decays(params: Any) -> Any:
    # Vectors are norm scales and biases, which decay would pull to 0.
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def for_groups(settings: Any, groups: Iterable[str]) -> dict[str, optax.GradientTransformation]:
    """Returns an optimizer for each trained group.

    Args:
        settings: a stage's ``steps``, ``optimizer``, and ``optimizers``, the fields that single
            groups override, by group.
        groups: names of groups, or paths of parts of groups.
    """
    found = {}
    for group in groups:
        config = {**settings.optimizer, **settings.optimizers.get(group, {})}
        found[group] = build(SimpleNamespace(**config), settings.steps)
    return found


def build(config: Any, steps: int) -> optax.GradientTransformation:
    """Returns AdamW (Adam if ``weight_decay`` is 0) after a global-norm clip (0: none)."""
    parts = []
    if config.clip:
        # Before Adam, whose updates no longer have the gradient's size.
        parts.append(optax.clip_by_global_norm(config.clip))
    parts.append(
        optax.adamw(
            schedule(config, steps),
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
            mask=_decays,
        )
    )
    chain = optax.chain(*parts)
    return chain._replace(update=_promoting(chain.update))
