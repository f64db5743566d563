"""A crew in this process: the same engine and the same policy, without Ray between them.

Runs of seconds would otherwise spend most of their time starting processes. What is computed is the same.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast
from unittest.mock import patch

from llmrl.cluster.actor import Actor
from llmrl.cluster.placement import Need, needs
from llmrl.recipe.schema import Model, Stage
from llmrl.run.crew import Crew
from llmrl.run.hiring import at_work, program


class Answer:
    """The result of a call that is under way."""

    def __init__(self, coming: Awaitable[Any]) -> None:
        self.task = asyncio.ensure_future(coming)

    async def result(self, *, deadline_s: float) -> Any:
        """The value."""
        async with asyncio.timeout(deadline_s):
            return await self.task


class Here:
    """A worker that is called as an actor is; calls that are not coroutines run one after the other."""

    def __init__(self, worker: object, name: str) -> None:
        self._worker, self.name, self._thread = worker, name, ThreadPoolExecutor(1)

    def send(self, method: str, *args: Any) -> Answer:
        """Start a call."""
        return Answer(self._called(getattr(self._worker, method), args))

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        """Start a call and wait for its value."""
        return await self.send(method, *args).result(deadline_s=deadline_s)

    async def _called(self, method: Any, args: Sequence[Any]) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(*[await arg.task if isinstance(arg, Answer) else arg for arg in args])
        return await asyncio.get_running_loop().run_in_executor(self._thread, method, *args)


@asynccontextmanager
async def hired_here(
    stage: Stage, *, seed: int, plugins: Sequence[str], engines: bool, build: Model | None, logs: Path
) -> AsyncGenerator[Crew]:
    """The processes of ``llmrl.run.hiring.hired`` as objects of this one."""
    del logs
    staff: list[tuple[Need, Actor]] = []
    for need in needs(stage, device="cpu", engines=engines):
        its = program(need, stage, device="cpu", seed=seed, plugins=plugins)
        staff.append((need, cast("Actor", Here(resolve_name(its.path)(*its.args), need.name))))
    async with at_work(stage, staff, head="127.0.0.1", seed=seed, build=build) as crew:
        yield crew


def _kept(value: object) -> object:
    """What is shared among processes elsewhere."""
    return value


def _roomy(*_: object) -> None:
    """There is always room for objects of this process."""


@contextmanager
def everything_here() -> Generator[None]:
    """Runs that are started inside need no cluster."""
    with (
        patch("llmrl.run.start.connect", nullcontext),
        patch("llmrl.run.start._check_room", _roomy),
        patch("llmrl.run.stage.hired", hired_here),
        patch("llmrl.run.trainer.share", _kept),
        patch("llmrl.run.parity_gate.share", _kept),
    ):
        yield
