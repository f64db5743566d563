"""Sides that do the same work, each in a process of its own, measured in turns: A B B A, A B B A.

Whatever else the machine does meets every side alike, and CPU time of a side's whole process tree is
what counts. A side that computes something else ends the comparison, however fast it is.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

START_DEADLINE_S = 240
RUN_DEADLINE_S = 240

Outcome = dict[str, NDArray[Any]]
"""What a side computed, for the others to agree with."""

Run = Callable[[], Callable[[], Outcome]]
"""The work, which is measured; it returns how to say what came out, which is not."""

Build = Callable[..., AbstractContextManager[Run]]
"""Sets a side up in its own process, and takes it down."""


class WrongResultError(Exception):
    """Two sides did not compute the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    ratios: Sequence[float]
    target: float
    at_most: bool = False
    """Whether the target is a ceiling; otherwise it is a floor."""

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.median <= self.target if self.at_most else self.median >= self.target

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.3f}-{max(self.ratios):.3f}, n = {len(self.ratios)}"
        sign, verdict = "<=" if self.at_most else ">=", "ok" if self.holds else "short"
        return f"| {self.what} | {self.median:.3f} ({spread}) | {sign} {self.target:.2f} | {verdict} |"


HEADER = "| what | ratio: median (spread) | target | |\n|---|---|---|---|\n"
"""Of a table of rows, in Markdown."""


class Side:
    """One side in a process of its own, which lives until the comparison is over."""

    def __init__(self, name: str, build: Build, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments))
        self._process.start()
        theirs.close()

    def start(self) -> None:
        """Wait until it is set up."""
        self._answer(START_DEADLINE_S)

    def measure(self) -> tuple[float, Outcome]:
        """CPU seconds of one run, and what came out of it."""
        self._pipe.send("run")
        return self._answer(RUN_DEADLINE_S)

    def close(self) -> None:
        """Let it take itself down."""
        self._pipe.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()

    def _answer(self, deadline_s: float) -> Any:
        if not self._pipe.poll(deadline_s):
            raise TimeoutError(f"side '{self._name}' did not answer within {deadline_s} s.")
        return self._pipe.recv()


def _serve(pipe: Connection, build: Build, arguments: tuple[object, ...]) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries chat; the table stays alone on stdout
    torch.set_num_threads(1)
    with build(*arguments) as run:
        pipe.send("ready")
        while _asked(pipe):
            before = cpu_seconds()
            describe = run()
            spent = cpu_seconds() - before
            pipe.send((spent, describe()))


def _asked(pipe: Connection) -> bool:
    """Whether another run is wanted; the other end closes when there is none."""
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def cpu_seconds() -> float:
    """What this process and all below it have used."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def started(sides: Mapping[str, tuple[Build, *tuple[object, ...]]]) -> Generator[dict[str, Side]]:
    """All sides, set up one after the other so that none disturbs another's start."""
    with ExitStack() as stack:
        made: dict[str, Side] = {}
        for name, (build, *arguments) in sides.items():
            made[name] = Side(name, build, *arguments)
            stack.callback(made[name].close)
            made[name].start()
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one side."""

    seconds: list[float]
    """CPU seconds of both runs of each round."""
    outcomes: list[Outcome]
    """Of every run, the warm-up included."""


def in_turns(sides: Mapping[str, Side], *, rounds: int) -> dict[str, Measured]:
    """Every side once to warm up, then in rounds: all in order, then all in reverse."""
    found = {name: Measured(seconds=[], outcomes=[side.measure()[1]]) for name, side in sides.items()}
    for _ in range(rounds):
        spent = dict.fromkeys(sides, 0.0)
        for name in [*sides, *reversed(list(sides))]:
            seconds, outcome = sides[name].measure()
            spent[name] += seconds
            found[name].outcomes.append(outcome)
        for name, seconds in spent.items():
            found[name].seconds.append(seconds)
    return found


def speed_ratios(bare: Measured, ours: Measured) -> list[float]:
    """Our speed over the bare side's, round by round."""
    return [theirs / own for theirs, own in zip(bare.seconds, ours.seconds, strict=True)]


def must_agree(bare: Measured, ours: Measured, *, tolerance: Mapping[str, float]) -> None:
    """Compare run by run.

    Args:
        bare: the side that is right by definition.
        ours: the side that must agree with it.
        tolerance: by name, the largest relative difference; values below 0.01 count as that much.

    Raises:
        WrongResultError: something differs.
    """
    for run, (right, got) in enumerate(zip(bare.outcomes, ours.outcomes, strict=True)):
        for name, limit in tolerance.items():
            if right[name].shape != got[name].shape:
                raise WrongResultError(
                    f"run {run}: {name} has shape {got[name].shape}, not {right[name].shape}."
                )
            off = np.abs(got[name] - right[name]) / np.maximum(0.01, np.abs(right[name]))
            if not (off <= limit).all():
                raise WrongResultError(f"run {run}: {name} differs by {off.max():.2e}, allowed is {limit:g}.")
