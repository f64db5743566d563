"""A plugin whose reward is awaited and does what a response says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards import Sample, Score, reward


async def _wait() -> None:
    await asyncio.sleep(3600)


async def _swallow() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


async def _block() -> None:
    await asyncio.sleep(0.1)
    time.sleep(3600)


async def _kill() -> None:
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


async def _raise() -> None:
    await asyncio.sleep(0)
    raise KeyError("rubric")


async def _exit() -> None:
    sys.exit(0)


async def _cancel() -> None:
    raise asyncio.CancelledError


async def _fork() -> None:
    os.fork()


DEEDS: dict[str, Callable[[], Awaitable[object]]] = {
    "wait": _wait,
    "swallow": _swallow,
    "block": _block,
    "kill": _kill,
    "raise": _raise,
    "system exit": _exit,
    "cancel": _cancel,
    "fork that returns": _fork,
}


@reward("awaited")
@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedReward:
    """Scores 1 after ``seconds``, unless the response names a deed or a number."""

    seconds: float = 0.0

    reads_answer: ClassVar[bool] = False

    async def __call__(self, sample: Sample) -> float | None | Score:
        if sample.response in DEEDS:
            await DEEDS[sample.response]()
        await asyncio.sleep(self.seconds)
        return float("nan") if sample.response == "nan" else None if sample.response == "abstain" else 1.0
