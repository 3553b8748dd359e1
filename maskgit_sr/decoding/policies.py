"""What a decoding step keeps and what it masks again."""

from __future__ import annotations

import dataclasses

from maskgit_sr.ops.schedules import gamma

CONFIDENCES = ("critic", "generator")


@dataclasses.dataclass(frozen=True)
class Policy:
    """A decoding rule, hashable so that a jitted function can close over it.

    Attributes:
        steps: T, from 1 up.
        confidence: ``critic``: a second network judges all tokens, and accepted ones can be revoked
            (RealSRT §3.2). ``generator``: the probability of the chosen token; accepted tokens stay
            (MaskGIT; the paper's ablation a).
        schedule: name of γ in :mod:`maskgit_sr.ops.schedules`.
        temperature: 0 takes the most likely token; above 0 samples softmax(logits / temperature).
        score: rate the finished tokens too. With the critic this costs one call after the last
            step, which decoding itself does not need.

    Raises:
        ValueError: a value out of range, naming the field.
    """

    steps: int = 4
    confidence: str = "critic"
    schedule: str = "sqrt"
    temperature: float = 0.0
    score: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        if self.confidence not in CONFIDENCES:
            raise ValueError(
                f"confidence: expected one of {', '.join(CONFIDENCES)}, found {self.confidence!r}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}")
        gamma(self.schedule)

    @property
    def revocable(self) -> bool:
        """Whether a token that was kept may be masked again later."""
        return self.confidence == "critic"

    @property
    def asks_critic(self) -> bool:
        """Whether decoding calls the critic at all; one unscored step does not."""
        return self.confidence == "critic" and (self.steps > 1 or self.score)
