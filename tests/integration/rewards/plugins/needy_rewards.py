"""A plugin whose rewards need something: time to get ready, or a variable of the environment."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards import Sample, reward


@reward("patient")
@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Ready after some seconds."""

    reads_answer: ClassVar[bool] = False
    seconds: float

    def warm_up(self) -> None:
        time.sleep(self.seconds)

    def __call__(self, sample: Sample) -> float:
        return 0.0


@reward("keyed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """Whether the response is the variable's value."""

    reads_answer: ClassVar[bool] = False
    variable: str

    def __call__(self, sample: Sample) -> float:
        return float(sample.response == os.environ.get(self.variable))
