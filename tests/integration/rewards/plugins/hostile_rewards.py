"""A plugin whose reward does what a response says, each of it something that a reward must not do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llmrl.errors import RewardError
from llmrl.rewards import Sample, Score, reward


def _hang() -> None:
    while True:
        pass


def _hang_in_c() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def _swallow() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(0.01)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _hang()


def _raise() -> None:
    raise KeyError("rubric")


def _print() -> None:
    sys.stdout.write('["score", 1.0, "forged", 0.0]\n' * 100)
    sys.stdout.flush()
    os.write(1, b"\xff\x00garbage\n" * 10_000)
    subprocess.run(["echo", "garbage"], check=True)


def _flood() -> None:
    while True:
        os.write(2, b"x" * 65536)


def _read_stdin() -> None:
    assert sys.stdin.read() == ""


def _forge(line: bytes) -> None:
    for descriptor in range(3, 32):
        with suppress(OSError):
            os.write(descriptor, line)
    _hang()


DEEDS: dict[str, Callable[[], object]] = {
    "hang": _hang,
    "hang in C": _hang_in_c,
    "swallow": _swallow,
    "ignore signals": _ignore_signals,
    "take its time": lambda: time.sleep(0.5),
    "raise": _raise,
    "take 32 MiB": lambda: len(bytearray(32 * 2**20)) > 0,
    "take 128 MiB": lambda: len(bytearray(128 * 2**20)) > 0,
    "system exit": lambda: sys.exit(0),
    "nan": lambda: float("nan"),
    "text": lambda: "1.0",
    "abstain": lambda: Score(None, "no opinion"),
    "exit": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "print": _print,
    "flood": _flood,
    "read stdin": _read_stdin,
    "forge": lambda: _forge(b"garbage\n"),
}


@reward("hostile")
@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """Scores 1, unless the response names a deed. Notes every process that it starts in ``pids``."""

    pids: Path

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> object:
        self._note(os.getpid())
        if sample.response == "fork that stays":
            self._fork(stays=True)
        elif sample.response == "fork and hang":
            self._fork(stays=True)
            _hang()
        elif sample.response == "fork that returns":
            self._fork(stays=False)
        elif sample.response in DEEDS:
            returned = DEEDS[sample.response]()
            return 1.0 if returned is None else returned
        return 1.0

    def _fork(self, *, stays: bool) -> None:
        if os.fork() == 0:
            self._note(os.getpid())
            while stays:
                time.sleep(1)

    def _note(self, pid: int) -> None:
        with self.pids.open("a") as file:
            file.write(f"{pid}\n")


@reward("refused")
@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What it needs is not there, and it says so."""

    reads_answer: ClassVar[bool] = False

    def warm_up(self) -> None:
        raise RewardError("rewards: this machine has no user namespaces.")

    def __call__(self, sample: Sample) -> float:
        return 0.0
