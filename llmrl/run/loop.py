"""The training loop: one page, synchronous and asynchronous alike.

    produce:  room -> draw -> obtain (generate, judge) -> queue, in the order of the draws
    train:    queue -> keep? -> step -> publish -> room

A group is admitted only while fewer than ``(max_lag + 1) * per_step`` groups are under way, where a
group counts from its draw until the weights that it made are served by every engine. What is ahead
of it in the queue therefore cannot take more than ``max_lag`` steps, and that is the lag bound; with
``max_lag = 0`` the same lines are synchronous training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from llmrl.experience.experience import Experience
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A group and what the rewards say of it."""

    group: RolloutGroup
    judgements: tuple[Judgement, ...]


class Stations(Protocol):
    """The stations of the flow. Real ones are processes; the loop does not care."""

    def draw(self) -> int:
        """The ordinal of the next prompt."""
        ...

    async def obtain(self, ordinal: int) -> Judged:
        """Responses to the prompt at ``ordinal``, judged."""
        ...

    def refuse(self, judged: Judged, /) -> bool:
        """Drop the group, with the reason on record, or let it into the step."""
        ...

    def exhausted(self) -> bool:
        """Whether the step has refused so many groups that it looks for no others in their place."""
        ...

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        """Advantages for a whole step."""
        ...

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        """One optimizer step; afterwards the policy is at version ``step + 1``."""
        ...

    async def publish(self, version: int) -> None:
        """Every engine serves ``version`` (and what is due at that version is done) when this returns."""
        ...


async def run_loop(stations: Stations, *, per_step: int, max_lag: int, first: int, last: int) -> None:
    """Train steps ``first`` to ``last - 1``; the first failure of a station ends the loop with its error."""
    try:
        await _run(stations, per_step=per_step, max_lag=max_lag, first=first, last=last)
    except BaseExceptionGroup as group:
        raise _first_of(group) from None


async def _run(stations: Stations, *, per_step: int, max_lag: int, first: int, last: int) -> None:
    room = asyncio.Semaphore((max_lag + 1) * per_step)
    queue: asyncio.Queue[asyncio.Task[Judged]] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:

        async def produce() -> None:
            while True:
                await room.acquire()
                queue.put_nowait(tasks.create_task(stations.obtain(stations.draw())))

        async def collect() -> list[Judged]:
            kept: list[Judged] = []
            given_up = 0
            while len(kept) + given_up < per_step:
                judged = await (await queue.get())
                if not stations.refuse(judged):
                    kept.append(judged)
                elif stations.exhausted():
                    given_up += 1  # its room stays taken until the step is published, as if it were trained
                else:
                    room.release()
            return kept

        async def publish(version: int, before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            await stations.publish(version)
            for _ in range(per_step):
                room.release()

        producer = tasks.create_task(produce())
        published: asyncio.Task[None] | None = None
        for step in range(first, last):
            experiences = stations.credit(await collect(), step)
            await stations.step(experiences, step=step)
            published = tasks.create_task(publish(step + 1, published))
        if published is not None:
            await published
        producer.cancel()
        while not queue.empty():
            queue.get_nowait().cancel()


def _first_of(error: BaseException) -> BaseException:
    """The error that ended the loop; what it dragged along is not news."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
