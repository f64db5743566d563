"""Rewards by a reward model: ``classifier`` scores the response, ``process`` its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from llmrl.errors import ServiceError
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward
from llmrl.roles.asker import Asker

AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "product": math.prod,
    "last": lambda scores: scores[-1],
}


@reward("classifier")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier(Asker):
    """The score of a role of kind ``classify``."""

    reads_answer: ClassVar[bool] = False
    asks: ClassVar[str] = "classify"

    async def __call__(self, sample: Sample) -> Score:
        scores = await self.score(sample.conversation, sample.response)
        if len(scores) != 1:
            raise ServiceError(f"{self.who} answered {len(scores)} scores; a classifier has one.")
        return Score(scores[0])


@reward("process")
@dataclass(frozen=True, slots=True, kw_only=True)
class Process(Asker):
    """The scores of a response's steps by a role of kind ``steps``, aggregated."""

    aggregate: Literal["min", "mean", "product", "last"] = "min"
    """Aggregation of the scores; ``min`` is as good as the worst step."""

    reads_answer: ClassVar[bool] = False
    asks: ClassVar[str] = "steps"

    async def __call__(self, sample: Sample) -> Score:
        if not sample.response.strip():
            return Score(None, "the response has no step")
        scores = await self.score(sample.conversation, sample.response)
        return Score(AGGREGATES[self.aggregate](scores), " ".join(f"{score:.3f}" for score in scores))
