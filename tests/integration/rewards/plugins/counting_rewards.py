"""A plugin whose rewards note each call in a file, so that a test can count them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from llmrl.rewards import Sample, reward


@reward("counting")
@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Scores the number of letters, and refuses to judge nothing."""

    calls: Path

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float | None:
        with self.calls.open("a") as file:
            file.write(f"{sample.response}\n")
        if sample.response == "raise":
            raise KeyError("rubric")
        return None if sample.response == "abstain" else float(len(sample.response))


@reward("moody")
@dataclass(frozen=True, slots=True, kw_only=True)
class Moody:
    """Says itself that it may change its mind."""

    reads_answer: ClassVar[bool] = False
    changes: ClassVar[Literal[True]] = True

    def __call__(self, sample: Sample) -> float:
        return float(sample.tokens)
