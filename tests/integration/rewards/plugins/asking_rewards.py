"""A plugin with two rewards that read the gold answer: one awaited, one that asks a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards import Sample, Score, reward
from llmrl.rewards.kinds.model import Classifier


@reward("awaited_gold")
@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedGold:
    """1 for the gold answer, but no gold answer may be blue."""

    reads_answer: ClassVar[bool] = True

    async def __call__(self, sample: Sample) -> float:
        return float(sample.response == sample.answer != "blue")


@reward("asks_about_gold")
@dataclass(frozen=True, slots=True, kw_only=True)
class AsksAboutGold(Classifier):
    """A model's opinion of the response and the gold answer."""

    reads_answer: ClassVar[bool] = True

    async def __call__(self, sample: Sample) -> Score:
        return Score((await self.score(sample.conversation, f"{sample.response}{sample.answer}"))[0])
