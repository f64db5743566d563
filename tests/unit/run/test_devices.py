"""Devices that engines and ranks share are the ranks' again, whatever became of the engines."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from llmrl.cluster.actor import Actor
from llmrl.errors import DeadlineError, DeadProcessError, LlmrlError
from llmrl.run.devices import SharedDevices


class Process:
    """Needs a moment for what it is told, or fails it."""

    def __init__(self, error: LlmrlError | None = None) -> None:
        self._error = error
        self.told: list[str] = []

    def send(self, method: str) -> Process:
        self.told.append(method)
        return self

    async def result(self, *, deadline_s: float) -> None:
        await asyncio.sleep(0.05)
        if self._error:
            raise self._error

    async def call(self, method: str, *, deadline_s: float) -> Any:
        await self.send(method).result(deadline_s=deadline_s)


def shared(engines: list[Process], rank: Process) -> SharedDevices:
    return SharedDevices(cast("list[Actor]", engines), [cast("Actor", rank)], deadline_s=5)


@pytest.mark.parametrize("error", [DeadProcessError("engine-0 died"), DeadlineError("engine-0 is stuck")])
async def test_an_engine_that_cannot_sleep_keeps_nobody_from_the_devices(
    error: LlmrlError, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good, rank = Process(error), Process(), Process()
    devices = shared([bad, good], rank)
    await devices.engines()

    with caplog.at_level(logging.WARNING):
        await devices.policy()

    assert devices.asleep
    assert good.told == ["sleep"]
    assert rank.told == ["leave", "come_back"]
    assert str(error) in caplog.text


async def test_ranks_come_back_although_nobody_waited_until_they_had_left() -> None:
    rank = Process()
    devices = shared([], rank)
    leaving = asyncio.create_task(devices.engines())
    await asyncio.sleep(0.01)
    leaving.cancel()

    await devices.policy()

    assert rank.told == ["leave", "come_back"]
