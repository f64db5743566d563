"""Task: what a user of running totals says next. Reward: the share of the totals that were right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tasks import Problem, task
from llmrl.rewards import Sample, Score, reward

ADDED = re.compile(r"> \+([0-9])=")


@task("sums_user")
@dataclass(frozen=True, slots=True, kw_only=True)
class SumsUser:
    """``37+5=42`` is met by ``+3=``, ``37+5=42+3=45`` by ``+8=``: any digit, whatever was answered."""

    @property
    def characters(self) -> str:
        return "0123456789+="

    @property
    def size(self) -> int:
        return 1800

    def make(self, number: int) -> Problem:
        second, first = divmod(number, 900)
        tens, digit = 10 + first // 10, first % 10
        before, added, slip = (derive_seed("sums_user", number, n) % 10 for n in range(3))
        total = tens + digit + (slip == 0)  # a wrong answer is none of the user's business
        prompt = f"{tens}+{digit}={total}" + f"+{before}={total + before}" * second
        return Problem(prompt=prompt, answer="", response=f"+{added}=")


@reward("running_total")
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTotal:
    """Of the sums that the user asked for, however it went on; a user who asks for none ends it."""

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> Score:
        first, _, digit = sample.prompt.rstrip("=").partition("+")
        total, right, asked = int(first) + int(digit), 0, 1
        for line in sample.response.splitlines():
            if not line.startswith(">"):
                right += line.strip() == str(total)
            elif found := ADDED.fullmatch(line):
                total, asked = total + int(found[1]), asked + 1
        return Score(right / asked, f"{right} of {asked}")
