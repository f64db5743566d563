"""What one engine answers: calls that may wait for their turn as long as others get on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from llmrl.cluster.actor import Actor, Pending
from llmrl.errors import DeadlineError, DeadProcessError
from llmrl.prompts.prompt import Draw
from llmrl.report.timeline import Timeline
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup


@dataclass(slots=True, eq=False)
class EngineAnswers:
    """Groups of one engine.

    A group that waits behind a thousand others is no reason to end a run, and an engine that gives none at
    all is one: so the deadline is of the engine, not of a group.
    """

    engine: Actor
    deadline_s: float
    """Longest time in which it gives no group while some are asked of it."""
    timeline: Timeline
    last: float = float("-inf")
    """When it gave one, by the clock of the loop."""

    async def __call__(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        """All responses to one draw.

        Raises:
            DeadlineError: the engine has given no group for so long; the message names it.
            LlmrlError: what the engine itself raised, or that its process died.
        """
        try:
            with self.timeline.span(self.engine.name, f"{sampling.purpose} {draw.ordinal}"):
                group = await self._waited(self.engine.send("generate", draw, sampling))
        except asyncio.CancelledError:
            with suppress(DeadProcessError):
                self.engine.send("abandon", draw, sampling)
            raise
        self.last = asyncio.get_running_loop().time()
        return group

    async def _waited(self, pending: Pending) -> RolloutGroup:
        clock = asyncio.get_running_loop().time
        since = clock()
        while True:
            until = max(since, self.last) + self.deadline_s
            try:
                return await pending.result(deadline_s=until - clock())
            except DeadlineError:
                if clock() >= max(since, self.last) + self.deadline_s:
                    raise
