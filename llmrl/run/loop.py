"""The training loop: one page, synchronous and asynchronous alike.

    produce:  room -> draw -> obtain (generate, judge) -> done
    train:    done -> window -> keep? -> (score ahead) -> step -> publish -> room

A group counts as under way from its draw until the weights that it made are served by every engine, and
no more are under way than the steps within the lag bound can train on. A step takes the groups that are
done first, as far as the :class:`Window` allows it, and while it must wait for others, those that it has
are scored; with ``max_lag = 0`` the same lines are synchronous training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from llmrl.experience.experience import Experience
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.together import first_failure
from llmrl.run.window import Window

Decision = Literal["train", "replace", "leave empty"]
"""The fate of a group's place in a step: this group takes it, another one replaces it, or it stays empty."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A group and its judgements."""

    group: RolloutGroup
    judgements: tuple[Judgement, ...]


class Stations(Protocol):
    """The stations of the flow. Real ones are processes; the loop does not care."""

    def draw(self) -> int:
        """The ordinal of the next prompt."""
        ...

    async def obtain(self, ordinal: int) -> Judged:
        """Generate and judge the responses to the prompt at ``ordinal``."""
        ...

    def decide(self, judged: Judged, /) -> Decision:
        """Let the group into the step, or drop it with a recorded reason."""
        ...

    def late(self, ordinal: int, /) -> None:
        """Give up a group that is under way, as no step may train on it any more."""
        ...

    async def score_ahead(self, judged: Sequence[Judged], /) -> None:
        """Do now the step's work on single groups; ``judged`` grows in the meantime."""
        ...

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        """Compute the advantages for a whole step."""
        ...

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        """Take one optimizer step; afterwards the policy is at version ``step + 1``."""
        ...

    async def publish(self, version: int) -> None:
        """Return when every engine serves ``version`` and what is due at that version is done."""
        ...


async def run_loop(
    stations: Stations, *, per_step: int, max_lag: int, first: int, last: int, spare: int = 0
) -> None:
    """Train steps ``first`` to ``last - 1``; the first failure of a station ends the loop with its error.

    Args:
        spare: groups under way beyond those that the steps within the lag bound can train on.
    """
    window = Window(per_step=per_step, max_lag=max_lag, spare=spare)
    places = (last - first) * per_step + spare
    loop = _Loop(stations=stations, window=window, served=first, step=first, places=places)
    with first_failure():
        await loop.run(first, last)


@dataclass(slots=True, kw_only=True, eq=False)
class _Loop:
    stations: Stations
    window: Window
    served: int
    """The version that every engine serves."""
    places: int
    """Groups that may still be admitted, besides replacements; no step is drawn for in vain."""
    step: int
    """The first step that does not have all its groups yet."""
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    under_way: dict[int, asyncio.Task[None]] = field(default_factory=dict[int, asyncio.Task[None]])
    done: dict[int, Judged] = field(default_factory=dict[int, Judged])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """An event: a group is done."""
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """An event: a version is served."""
    ahead: asyncio.Task[None] | None = None
    """The policy's work while a step waits for its last groups."""

    async def run(self, first: int, last: int) -> None:
        self.admit(self.window.room)
        async with self.tasks:
            producer = self.tasks.create_task(self.produce())
            published: asyncio.Task[None] | None = None
            for step in range(first, last):
                experiences = self.stations.credit(await self.collect(step), step)
                await self.stations.step(experiences, step=step)
                published = self.tasks.create_task(self.publish(step + 1, published))
            producer.cancel()
            for task in self.under_way.values():
                task.cancel()

    def admit(self, groups: int) -> None:
        admitted = min(groups, self.places)
        self.places -= admitted
        for _ in range(admitted):
            self.room.release()

    async def produce(self) -> None:
        while True:
            await self.room.acquire()
            while self.served + self.window.max_lag < self.step:  # it would be late before it began
                self.fresh.clear()
                await self.fresh.wait()
            ordinal = self.stations.draw()
            self.window.draw(ordinal, version=self.served)
            self.under_way[ordinal] = self.tasks.create_task(self.obtain(ordinal))

    async def obtain(self, ordinal: int) -> None:
        self.done[ordinal] = judged = await self.stations.obtain(ordinal)
        self.window.finish(ordinal, oldest=judged.group.oldest_version)
        self.news.set()

    async def collect(self, step: int) -> list[Judged]:
        kept: list[Judged] = []
        empty = 0
        while left := self.window.per_step - len(kept) - empty:
            judged = await self.take(step, left, kept)
            match self.stations.decide(judged):
                case "train":
                    kept.append(judged)
                case "replace":
                    self.room.release()
                case "leave empty":
                    empty += 1  # its room stays taken until the step is published, as if it were trained
        self.step = step + 1
        self.give_up(self.window.late(step=step))
        if self.ahead is not None:
            await self.ahead  # it used this step's weights
        # In the order of the draws, so that a step does not depend on which group was done first.
        return sorted(kept, key=lambda judged: judged.group.ordinal)

    async def take(self, step: int, left: int, kept: Sequence[Judged]) -> Judged:
        while (ordinal := self.window.choose(self.done, step=step, left=left)) is None:
            self.news.clear()
            if kept and (self.ahead is None or self.ahead.done()):
                self.ahead = self.tasks.create_task(self.stations.score_ahead(kept))
            await self.news.wait()
        judged = self.done[ordinal]
        self.leave(ordinal)
        return judged

    def give_up(self, ordinals: Sequence[int]) -> None:
        for ordinal in ordinals:
            self.under_way[ordinal].cancel()
            self.leave(ordinal)
            self.stations.late(ordinal)
            self.room.release()

    def leave(self, ordinal: int) -> None:
        self.window.leave(ordinal)
        del self.under_way[ordinal]
        self.done.pop(ordinal, None)

    async def publish(self, version: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        await self.stations.publish(version)
        self.served = version
        self.fresh.set()
        self.admit(self.window.per_step)
