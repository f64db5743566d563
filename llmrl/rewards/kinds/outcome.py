"""The reward that an environment gives: what it says that the conversation was worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward


@reward("outcome")
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The environment's outcome as it is; where the environment has none it abstains."""

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> Score:
        return Score(sample.outcome, "" if sample.outcome is not None else "the environment gave no outcome")
