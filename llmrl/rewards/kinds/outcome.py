"""The environment's reward: its value of the conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward


@reward("outcome")
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The environment's outcome as it is; abstains if there is none."""

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> Score:
        return Score(sample.outcome, "" if sample.outcome is not None else "the environment gave no outcome")
