"""What a sandbox is: it runs a program that nobody has read, within limits, and says what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from llmrl.errors import RewardError, shown

Ending = Literal["ended", "failed", "late", "overflow"]
"""It ended by itself; it failed or was killed; it took too long; it wrote too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use."""

    seconds: float = 6.0
    """Wall-clock time, after which it is killed."""
    memory_mib: int = 1024
    """Address space."""
    output_kib: int = 1024
    """Length of its output; what is longer is an overflow."""
    disk_mib: int = 16
    """Its folder, which is in memory, and each file in it."""
    threads: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a program. Every word of it may be a lie, except that it ended and how long it took."""

    ending: Ending
    output: str
    errors: str
    """The end of its standard error, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Tests that call functions of a candidate, and are not written by whom they test."""

    setup: str
    """Program text that runs before the tests, and before the candidate, in the jail of each."""
    tests: Sequence[str]
    """Program texts; one passes if it raises nothing."""
    functions: Sequence[str] = ()
    """Names that are the candidate's even where ``setup`` defines them, besides all that nobody defines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What came of an exam."""

    passed: tuple[bool, ...]
    """One for each test."""
    note: str = ""
    """Why the first failing test failed, for people."""


@runtime_checkable
class Examiner(Protocol):
    """A sandbox that can keep two programs apart and let them talk."""

    def examine(self, candidate: str, exam: Exam, *, limits: Limits) -> Marks:
        """Run the tests in a jail of their own against the functions of ``candidate`` in another.

        Raises:
            RewardError: the sandbox itself failed; nothing is known of the candidate.
        """
        ...


class Sandbox(Protocol):
    """Runs one program at a time."""

    def start(self) -> None:
        """Get ready; does nothing if that was done before.

        Raises:
            RewardError: it cannot be used here; the message says what is missing and what to do.
        """
        ...

    def close(self) -> None:
        """Leave nothing running; it may be started again."""
        ...

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        """Run a Python program.

        Raises:
            RewardError: the sandbox itself failed; nothing is known of the program.
        """
        ...


def try_out(sandbox: Sandbox, limits: Limits) -> None:
    """Run a program whose output is known: a sandbox in which nothing works would fail every candidate.

    Raises:
        RewardError: it gave something else, or the sandbox failed.
    """
    run = sandbox.run("print(input(), 6 * 7)", stdin="ready", limits=limits)
    if (run.ending, run.output) != ("ended", "ready 42\n"):
        said = f"{shown(run.output)} and {shown(run.errors[-200:], 210)}"
        raise RewardError(
            f"sandbox: the sandbox runs no Python: print(input(), 6 * 7) {run.ending} with {said}; "
            f"look at its interpreter, or use another isolation."
        )
