"""Optimizers and learning-rate schedules by configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import jax
import optax


def schedule(config: Any, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine from ``learning_rate`` to ``final_learning_rate``."""
    found = optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup else config.learning_rate,
        config.learning_rate,
        config.warmup,
        max(steps, config.warmup + 1),
        config.final_learning_rate,
    )
    return _promoting(found)


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of optax under standard dtype promotion: it mixes floats and counts."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return call


def _decays(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def for_groups(settings: Any, groups: Iterable[str]) -> dict[str, optax.GradientTransformation]:
    """Returns an optimizer for each trained group.

    Args:
        settings: of a stage: ``steps``, ``optimizer``, and ``optimizers``, what is different for
            single groups by their names.
    """
    found = {}
    for group in groups:
        config = {**settings.optimizer, **settings.optimizers.get(group, {})}
        found[group] = build(SimpleNamespace(**config), settings.steps)
    return found


def build(config: Any, steps: int) -> optax.GradientTransformation:
    """AdamW (Adam when ``weight_decay`` is 0) behind a global-norm clip; decay on matrices only."""
    parts = []
    if config.clip:
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
