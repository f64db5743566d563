"""Whose fault it is: a rank that sends nothing is not its engines', and a door that sticks is nobody's."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, cast

import pytest

from llmrl.cluster import actor
from llmrl.cluster.actor import Actor, Pending
from llmrl.errors import LlmrlError, TrainingError
from llmrl.run.crew import Crew, Letter
from llmrl.run.devices import OwnDevices
from llmrl.run.hiring import _dismiss


class Ended:
    """A call that has ended, well or badly; with a TimeoutError it never does."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def result(self, *, deadline_s: float) -> Any:
        if isinstance(self._error, TimeoutError):
            await asyncio.Event().wait()
        if self._error:
            raise self._error


class Process:
    """Does what it is told but for the calls that it fails."""

    def __init__(self, name: str, **failing: Exception) -> None:
        self.name, self._failing = name, failing
        self.told: list[str] = []

    def send(self, method: str, *_args: Any) -> Ended:
        self.told.append(method)
        return Ended(self._failing.get(method))

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        return await self.send(method, *args).result(deadline_s=deadline_s)


def crew_of(engines: list[Process], rank: Process) -> Crew:
    return Crew(
        engines=cast("list[Actor]", engines),
        ranks=[cast("Actor", rank)],
        roles={},
        devices=OwnDevices(),
        deadline_s=5,
    )


async def test_weights_that_were_never_sent_are_the_fault_of_the_rank() -> None:
    # Ray fails the engine's call with what its argument failed with.
    engine, rank = Process("engine-0", load=LlmrlError("engine-0.load: out of memory")), Process("policy-0")
    lost = cast("Pending", Ended(TrainingError("policy-0.weights: out of memory")))

    with pytest.raises(TrainingError, match=r"policy-0\.weights"):
        await crew_of([engine], rank).deliver(Letter(version=1, sent=[lost], copy=None))
    assert rank.told == ["hang_up"]  # and there is nothing to release


class Stuck(OwnDevices):
    """Engines never get their devices, as the ranks never leave them."""

    async def engines(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("devices", [OwnDevices(), Stuck()])
async def test_a_rank_that_fails_is_named_at_once_whoever_waits_for_the_weights(
    monkeypatch: pytest.MonkeyPatch, devices: OwnDevices
) -> None:
    monkeypatch.setattr(actor, "ECHO_S", 0.05)
    crew = replace(crew_of([Process("engine-0", load=TimeoutError())], Process("policy-0")), devices=devices)
    first, other = Ended(TimeoutError()), Ended(TrainingError("policy-1.weights: out of memory"))
    sent = [cast("Pending", first), cast("Pending", other)]

    async with asyncio.timeout(10):
        with pytest.raises(TrainingError, match=r"policy-1\.weights: out of memory"):
            await crew.deliver(Letter(version=1, sent=sent, copy=None))


async def test_an_engine_that_does_not_take_weights_is_named_after_all_others_have_them() -> None:
    bad, good = Process("engine-0", load=LlmrlError("engine-0.load: no room")), Process("engine-1")

    rank, letter = Process("policy-0"), Letter(version=1, sent=[cast("Pending", Ended())], copy=None)
    delivery = await crew_of([bad, good], rank).deliver(letter)
    with pytest.raises(LlmrlError, match=r"engine-0\.load: no room"):
        delivery.taken()
    assert sorted(good.told) == ["hang_up", "load"]
    assert rank.told == [
        "hang_up",
        "release",
    ]  # in this order, as rank 0 waits for the broadcast's end to release it


async def test_a_stage_that_is_done_does_not_fail_at_its_doors(caplog: pytest.LogCaptureFixture) -> None:
    stuck, other = Process("engine-0", close=LlmrlError("engine-0.close: stuck")), Process("engine-1")

    with caplog.at_level(logging.WARNING):
        await _dismiss(crew_of([stuck, other], Process("policy-0")))

    assert other.told == ["close"]
    assert "engine-0.close: stuck" in caplog.text
