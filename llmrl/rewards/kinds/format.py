"""Rewards for the form of a response, whatever its content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.match import compiled
from llmrl.rewards.reward import reward


@reward("format")
@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """1 if the whole response matches a pattern, else 0."""

    pattern: str
    """Python regular expression for the whole response; ``.`` matches line breaks too."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        compiled(self.pattern)

    def __call__(self, sample: Sample) -> float:
        return float(re.fullmatch(self.pattern, sample.response, re.DOTALL) is not None)


@reward("finished")
@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """1 if the model ended the response itself, 0 if the token budget cut it off."""

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float:
        return float(sample.finished)
