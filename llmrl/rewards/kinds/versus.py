"""A preference made of scores: how a response's score compares with those of its rivals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Reward, Score, is_awaited, reward
from llmrl.rewards.scoring.part import evaluate

_WORDLESS = frozenset({"finished", "length", "outcome", "overlong"})
"""Rewards that read of a response what of a rival nobody has; a rival is its text."""


@reward("versus")
@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """The mean over the rivals of P(this response is better), from the scores of another reward.

    As the difference of scores decides, this is a Bradley-Terry preference; one that is none is a reward of
    your own with ``reads_rivals = True``. Abstains where there is no rival, and where a score is missing.
    """

    kind: str
    """The reward that scores each response by itself, by its text; rivals count as finished."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Its options."""
    scale: float | None = None
    """P is sigmoid(scale * difference of scores); by default 1 for the better, 1/2 for equals, else 0."""

    reads_answer: ClassVar[bool] = False
    reads_rivals: ClassVar[Literal[True]] = True
    _inner: Reward = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be finite and above 0, got {self.scale}")
        if self.kind in _WORDLESS:
            raise ValueError(
                f"kind must be a reward of the text, as of rivals there is no other; got '{self.kind}', "
                f"which needs their length, end or outcome"
            )
        inner: Reward = reward.build_nested(self.kind, self.options)
        if is_awaited(inner):
            raise ValueError(f"kind must be a reward that is not awaited, got '{self.kind}'")
        object.__setattr__(self, "_inner", inner)

    @property
    def derived_from(self) -> Reward:
        """The reward that scores."""
        return self._inner

    def __call__(self, sample: Sample) -> Score:
        # Of rivals there are whole conversations only, so both sides are judged on theirs.
        own = self._score(sample.saying(sample.response))
        rivals = [self._score(_rival(sample, text)) for text in sample.rivals]
        known = [one for one in rivals if one is not None]
        if own is None or not known or len(known) < len(rivals):
            return Score(None, "no rival" if not rivals else "a response without a score")
        return Score(sum(self._preference(own - other) for other in known) / len(known))

    def _score(self, sample: Sample) -> float | None:
        part = evaluate(self._inner, sample)
        if part.status == "error":
            raise ValueError(part.note)
        return part.value

    def _preference(self, difference: float) -> float:
        if self.scale is None:
            return 0.5 + 0.5 * ((difference > 0) - (difference < 0))
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, self.scale * difference))))


def _rival(sample: Sample, text: str) -> Sample:
    """What is known of a rival, and nothing of the response in its place."""
    return replace(sample.saying(text), finished=True, outcome=None)
