"""Rewards that compare text: the whole response, or what a pattern finds in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from llmrl.errors import shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Reward, Score, gold_of, reward


@reward("exact")
@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """1 if the response is the gold answer, else 0."""

    strip: bool = True
    """Whether to ignore white space around either."""
    ignore_case: bool = False
    """Whether to ignore case."""

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> float:
        return self.meets(sample.final_text, gold_of(sample))

    def meets(self, text: str, answer: str) -> float:
        """1 if a text is the answer, else 0."""
        return float(self._plain(text) == self._plain(answer))

    def _plain(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text


@reward("regex")
@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """1 if a pattern occurs in the response, else 0."""

    pattern: str
    """Python regular expression, searched anywhere; flags stand in it, as in ``(?i)yes``."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        compiled(self.pattern)

    def __call__(self, sample: Sample) -> float:
        return float(re.search(self.pattern, sample.response) is not None)


@reward("capture")
@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """1 if the last match of a pattern's group is the gold answer, up to space around it."""

    pattern: str
    """Python regular expression, searched anywhere; flags stand in it, as in ``(?i)answer: (\\w+)``."""
    group: int | str = 1
    """Number or name of the group."""
    ignore_case: bool = False
    """Whether to ignore case."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pattern = compiled(self.pattern)
        groups = [*range(pattern.groups + 1), *pattern.groupindex]
        if self.group not in groups:
            raise ValueError(f"group must be one of {', '.join(map(str, groups))}, got {shown(self.group)}")

    def __call__(self, sample: Sample) -> Score:
        caught = [found.group(self.group) for found in re.finditer(self.pattern, sample.final_text)]
        if not caught or caught[-1] is None:
            return Score(0.0, "caught nothing")
        value = self._comparison().meets(caught[-1], gold_of(sample))
        return Score(value, f"caught {shown(caught[-1])}")

    def bare(self) -> Reward:
        """The same reward for bare gold answers: any text can be one, so only a missing one is found."""
        return self._comparison()

    def _comparison(self) -> Exact:
        return Exact(ignore_case=self.ignore_case)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled.

    Raises:
        ValueError: it is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is not a regular expression: {error}") from None
