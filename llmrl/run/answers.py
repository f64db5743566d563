"""The calls to one engine: one may wait for its turn as long as others make progress."""

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
    """The groups that one engine generates.

    A group that waits behind a thousand others is no reason to end a run; an engine that finishes none at all
    is. The deadline therefore applies to the engine, not to a group.
    """

    engine: Actor
    deadline_s: float
    """Longest time in which the engine may finish no group while some are requested."""
    timeline: Timeline
    last: float = float("-inf")
    """When the engine last finished a group, by the clock of the loop."""

    async def __call__(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        """Generate all responses to one draw.

        Raises:
            DeadlineError: the engine has finished no group within the deadline; the message names it.
            LlmrlError: what the engine itself raised, or the death of its process.
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
