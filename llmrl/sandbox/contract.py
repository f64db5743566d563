"""The contract of a sandbox: it runs an unread program within limits, and returns what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from llmrl.errors import RewardError, shown

Ending = Literal["ended", "failed", "late", "overflow"]
"""How a run ended: by itself; with an error or a kill; at its time limit; by writing too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one run."""

    seconds: float = 6.0
    """Wall-clock time, after which the program is killed."""
    memory_mib: int = 1024
    """Limit of the address space."""
    output_kib: int = 1024
    """Limit of the output; a longer one is an overflow."""
    disk_mib: int = 16
    """Limit of its folder, which is in memory, and of each file in it."""
    threads: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of a program. Nothing in it can be trusted except that it ended, and how long it took."""

    ending: Ending
    output: str
    errors: str
    """End of its standard error, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Tests that call functions of a candidate, and are not written by the candidate's author."""

    setup: str
    """Program text that runs before the tests, and before the candidate, in the jail of each."""
    tests: Sequence[str]
    """Program texts; a test passes if it raises nothing."""
    functions: Sequence[str] = ()
    """Names that are the candidate's even if ``setup`` defines them, besides all that are undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The result of an exam."""

    passed: tuple[bool, ...]
    """Whether each test passed."""
    note: str = ""
    """Reason why the first failing test failed, for people."""


@runtime_checkable
class Examiner(Protocol):
    """A sandbox that can isolate two programs and let them communicate."""

    def examine(self, candidate: str, exam: Exam, *, limits: Limits) -> Marks:
        """Run the tests in a jail of their own against the functions of ``candidate`` in another.

        Raises:
            RewardError: the sandbox itself failed; the candidate was not judged.
        """
        ...


class Sandbox(Protocol):
    """A way to run one program at a time in isolation."""

    def start(self) -> None:
        """Get ready; does nothing if that was done before.

        Raises:
            RewardError: it cannot be used here; the message says what is missing and what to do.
        """
        ...

    def close(self) -> None:
        """End everything that runs; it may be started again."""
        ...

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        """Run a Python program.

        Raises:
            RewardError: the sandbox itself failed; the program was not judged.
        """
        ...


def try_out(sandbox: Sandbox, limits: Limits) -> None:
    """Run a program whose output is known: a sandbox in which nothing works would fail every candidate.

    Raises:
        RewardError: it printed something else, or the sandbox failed.
    """
    run = sandbox.run("print(input(), 6 * 7)", stdin="ready", limits=limits)
    if (run.ending, run.output) != ("ended", "ready 42\n"):
        said = f"{shown(run.output)} and {shown(run.errors[-200:], 210)}"
        raise RewardError(
            f"sandbox: the sandbox runs no Python: print(input(), 6 * 7) {run.ending} with {said}; "
            f"look at its interpreter, or use another isolation."
        )
