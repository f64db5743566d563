"""A group may wait behind others for as long as it takes; an engine that gives none at all is named."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from llmrl.cluster.actor import Actor, Pending
from llmrl.errors import DeadlineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.report.timeline import Timeline
from llmrl.rollouts.engines import Sampling
from llmrl.run.answers import EngineAnswers

SAMPLING = Sampling(purpose="held-out", per_prompt=1, temperature=1.0, max_tokens=8)


class Engine:
    """One group after another, each in so many seconds, as from a process of Ray's."""

    name = "engine-0"

    def __init__(self, seconds: float) -> None:
        self._seconds, self._queued = seconds, 0
        self.sent: list[str] = []

    def send(self, method: str, draw: Draw, _sampling: Sampling) -> Pending:
        self.sent.append(method)
        self._queued += 1
        done: Future[int] = Future()
        when = self._seconds * self._queued
        asyncio.get_running_loop().call_later(when, lambda: done.cancelled() or done.set_result(draw.ordinal))

        class Reference:
            def future(self) -> Future[int]:
                copy: Future[int] = Future()
                done.add_done_callback(lambda one: copy.cancelled() or copy.set_result(one.result()))
                return copy

        return Pending(cast("Any", Reference()), "engine-0.generate")


def draw(ordinal: int) -> Draw:
    tokens = np.zeros(1, np.int32)
    return Draw(ordinal=ordinal, prompt=Prompt(id="p/0", tokens=tokens, text="", answer=None, source="p"))


def answers_of(engine: Engine, folder: Path, *, deadline_s: float) -> EngineAnswers:
    return EngineAnswers(cast("Actor", engine), deadline_s, Timeline(folder, steps=0))


async def test_groups_wait_for_their_turn_beyond_the_deadline_while_others_come(tmp_path: Path) -> None:
    answers = answers_of(Engine(0.25), tmp_path, deadline_s=3.0)  # a busy machine may stall for seconds

    groups: list[Any] = await asyncio.gather(*(answers(draw(n), SAMPLING) for n in range(15)))

    assert groups == list(range(15))


async def test_an_engine_that_gives_nothing_is_named(tmp_path: Path) -> None:
    answers = answers_of(Engine(60), tmp_path, deadline_s=0.1)

    with pytest.raises(DeadlineError, match=r"engine-0\.generate did not answer within 0\.1 s"):
        await answers(draw(0), SAMPLING)


async def test_who_gives_a_group_up_tells_the_engine(tmp_path: Path) -> None:
    engine = Engine(60)
    waiting = asyncio.create_task(answers_of(engine, tmp_path, deadline_s=60)(draw(0), SAMPLING))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert engine.sent == ["generate", "abandon"]
