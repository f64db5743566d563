"""``code``: does the program in a response pass its tests? It runs in a sandbox, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Reward, Score, gold_of, reward
from llmrl.sandbox import Docker, Fusion, Jails, Limits, Sandbox
from llmrl.sandbox.task import Task, read_task

_FENCED = re.compile(
    r"^([ \t]*(?:(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)?)```([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PYTHON = re.compile(r"\s*py(?:thon)?[0-9.]*\b", re.IGNORECASE)


@reward("code")
@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """1 if the code passes all tests of the gold answer, a JSON object: see docs/sandbox.md for its forms.

    The code is the last block between three backticks, or the whole response without one. Blocks that define
    the function which the tests call come before others, and of several those that are marked as Python.
    """

    isolation: Literal["kernel", "process", "docker", "fusion"] = "kernel"
    """Isolation: namespaces and seccomp; seccomp and Landlock alone; a container; a SandboxFusion server."""
    seconds: float = 6.0
    """Time limit of all tests of a response together; keep it below ``scoring.deadline_s``."""
    memory_mib: int = 1024
    """Memory limit of the program."""
    partial: bool = False
    """Whether the score is the share of the tests that pass."""
    tolerance: float = 1e-6
    """Largest difference, relative or absolute, of a number from an expected one with a fraction."""
    image: str = "python:3.11-slim"
    """Image for ``docker``."""
    url: str = ""
    """URL of the server for ``fusion``, such as ``http://sandbox:8080``."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.memory_mib < 64 or self.tolerance < 0:
            raise ValueError(
                f"seconds must be above 0, memory_mib at least 64 and tolerance at least 0, "
                f"got {self.seconds}, {self.memory_mib} and {self.tolerance}"
            )
        if (self.isolation == "fusion") != self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"isolation 'fusion' needs the url of its server, and no other does; got {self.url!r}"
            )

    def __call__(self, sample: Sample) -> Score:
        task = read_task(gold_of(sample))
        return self.grade(task, code_in(sample.final_text, task))

    def grade(self, task: Task, code: str) -> Score:
        """Judge the code alone, as it stands."""
        limits = Limits(seconds=self.seconds, memory_mib=self.memory_mib)
        verdict = task.judge(task.program(code), self._sandbox(), limits, tolerance=self.tolerance)
        right, tests = sum(verdict.passed), len(verdict.passed)
        value = right / tests if self.partial else float(right == tests)
        return Score(value, f"{right} of {tests} tests passed {verdict.note}".strip())

    def bare(self) -> Reward:
        """The check of a row: its own solution must pass; without one, its tests must be readable."""
        return Solution(judge=self)

    def warm_up(self) -> None:
        """Check whether the sandbox can be used here."""
        self._sandbox().start()

    def close(self) -> None:
        """End the sandbox, which also ends with its process; the next judgement restarts it. For tests."""
        self._sandbox().close()

    def _sandbox(self) -> Sandbox:
        return _sandbox(self.isolation, self.image, self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Judges a row's own solution in place of a response."""

    judge: Code

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> Score:
        task = read_task(gold_of(sample))
        if task.solution is None:
            return Score(1.0, "the row has no solution to check")
        return self.judge.grade(task, task.solution)


def code_in(response: str, task: Task) -> str:
    """The last fenced block of a response that defines what its task asks for, or else the last one.

    Other blocks may follow it: examples of use after a function, input and output after a program, which no
    function identifies; so blocks marked as Python come first. Without a block all of the response is code.
    """
    fenced: list[tuple[str, str, str]] = _FENCED.findall(response)
    blocks = [(kind, _outdented(text, len(before))) for before, kind, text in fenced] or [("", response)]
    fit = [block for block in blocks if task.defines(block[1])] or blocks
    python = [block for block in fit if _PYTHON.match(block[0])]
    return (python or fit)[-1][1]


def _outdented(text: str, columns: int) -> str:
    """Remove a fence's indentation in a list: at most ``columns``, and no more than the first line has."""
    first = text.lstrip("\n")
    columns = min(columns, len(first) - len(first.lstrip(" \t")))
    return re.sub(rf"^[ \t]{{1,{columns}}}", "", text, flags=re.MULTILINE) if columns else text


@cache
def _sandbox(isolation: Literal["kernel", "process", "docker", "fusion"], image: str, url: str) -> Sandbox:
    """The sandbox that all rewards of this process with these options share."""
    match isolation:
        case "docker":
            return Docker(image=image)
        case "fusion":
            return Fusion(url=url)
        case _:
            return Jails(isolation)
