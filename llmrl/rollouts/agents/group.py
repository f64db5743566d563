"""All responses of an agent to one draw: run side by side, and made into rollouts of one prompt."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import EngineError, shown
from llmrl.prompts.prompt import Draw
from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.agents.agent import Agent
from llmrl.rollouts.agents.calls import AgentCalls
from llmrl.rollouts.agents.contexts import Rendering
from llmrl.rollouts.agents.endpoint import Endpoint
from llmrl.rollouts.agents.thread import Ended, run_agent
from llmrl.rollouts.conversations.exchange import Limits, rollout_of
from llmrl.rollouts.engines.engine import Engine, Sampling
from llmrl.rollouts.environment import Reply
from llmrl.rollouts.rollout import Rollout, RolloutGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgentGroup:
    """The runs that begin with one draw."""

    agent: Agent
    endpoint: Endpoint
    engine: Engine
    rendering: Rendering
    draw: Draw
    seeds: tuple[int | str, ...]
    """Parts of every seed: the run, the purpose and the draw."""
    sampling: Sampling
    limits: Limits
    places: asyncio.Semaphore
    """A semaphore of which each run takes one place; all groups of an engine share it."""

    async def run(self) -> RolloutGroup:
        """Make the policy's rollouts, then the opponent's.

        The group's prompt is the common start of all first calls, in tokens; the rest of a first call begins
        its rollout, and is not trained on.

        Raises:
            EngineError: the engine failed, or the first calls have no token in common.
        """
        if self.sampling.branches > 1:
            raise EngineError(
                f"{self._name} is an agent, which cannot go on from a turn of another rollout; "
                f"rollouts.branches must be 1, got {self.sampling.branches}."
            )
        samples = range(self.sampling.per_prompt + self.sampling.opponents)
        runs = await asyncio.gather(*(self._run(sample) for sample in samples))
        shared = self._shared(runs)
        return RolloutGroup(
            ordinal=self.draw.ordinal,
            prompt=dataclasses.replace(self.draw.prompt, tokens=shared),
            rollouts=tuple(_rollout(calls, ended, shared=shared.size) for calls, ended in runs),
        )

    async def _run(self, sample: int) -> tuple[AgentCalls, Ended]:
        calls = self._calls(sample)
        await self.places.acquire()
        with self.endpoint.admitted(calls) as key:
            running = asyncio.create_task(self._running(key))
            running.add_done_callback(lambda _: self.places.release())
            # An abandoned run loses its key at once, and its place when it has ended.
            ended = await asyncio.shield(running)
        if calls.failure is not None:
            raise calls.failure
        ended = _judged(calls, ended)
        if ended.reason:
            log.warning(
                "%s, rollout %s of prompt %s is aborted: %s",
                self._name,
                calls.name,
                shown(self.draw.prompt.id),
                ended.reason,
            )
        return calls, ended

    async def _running(self, key: str) -> Ended:
        return await run_agent(
            self.agent,
            self.draw.prompt,
            base_url=self.endpoint.url,
            api_key=key,
            seed=derive_seed(*self.seeds, "world"),
        )

    def _calls(self, sample: int) -> AgentCalls:
        return AgentCalls(
            engine=self.engine,
            rendering=self.rendering,
            name=f"{self.sampling.purpose}-{self.draw.ordinal}-{sample}",
            order=self.sampling.order(self.draw.ordinal),
            seeds=(*self.seeds, sample),
            limits=self.limits,
            temperature=self.sampling.temperature,
            sampler="policy" if sample < self.sampling.per_prompt else "opponent",
        )

    def _shared(self, runs: Sequence[tuple[AgentCalls, Ended]]) -> NDArray[np.int32]:
        firsts = [calls.first for calls, _ in runs if calls.exchanges]
        if not firsts:
            return self.draw.prompt.tokens  # no run made a call, and each rollout has the reason
        shared = _common_beginning(firsts)
        if not shared.size:
            raise EngineError(
                f"{self._name}: the first calls for prompt {shown(self.draw.prompt.id)} have no token in "
                f"common, so they are not responses to one prompt; begin each with the same text."
            )
        return shared

    @property
    def _name(self) -> str:
        return f"environment {type(self.agent).__name__}"


def _judged(calls: AgentCalls, ended: Ended) -> Ended:
    """The end of a run, corrected by what the agent cannot know."""
    if calls.gave_up:
        return Ended(reason="the engine gave up on a call")
    if calls.full and calls.exchanges and ended.reason:
        return Ended()  # the budget ended it, whatever the agent made of that
    if not calls.exchanges and not ended.reason:
        return Ended(reason="it ended without an answer of the policy")
    return ended


def _rollout(calls: AgentCalls, ended: Ended, *, shared: int) -> Rollout:
    opponent = calls.sampler == "opponent"
    if not calls.exchanges:
        return _silence(ended.reason, opponent=opponent)
    *before, last = calls.exchanges
    last = dataclasses.replace(last, reply=Reply(over=True, outcome=ended.outcome))
    rollout = _led(calls.first[shared:], rollout_of([*before, last], opponent=opponent))
    if ended.reason:
        return dataclasses.replace(rollout, stop="abort", abort=ended.reason, outcome=None)
    return dataclasses.replace(rollout, stop="length") if calls.full else rollout


def _led(lead: NDArray[np.int32], rollout: Rollout) -> Rollout:
    """The rollout, preceded by the agent's first words, which count as old as the first turn."""
    front = (lead.size, 0)
    return dataclasses.replace(
        rollout,
        tokens=np.concatenate([lead, rollout.tokens]),
        logp=np.pad(rollout.logp, front),
        version=np.pad(rollout.version, front, mode="edge"),
        trained=np.pad(rollout.trained, front),
        turn=np.pad(rollout.turn, front),
        rewrites=tuple(dataclasses.replace(one, at=one.at + lead.size) for one in rollout.rewrites),
    )


def _silence(reason: str, *, opponent: bool) -> Rollout:
    none = np.zeros(0, dtype=np.int32)
    return Rollout(
        tokens=none,
        logp=none.astype(np.float32),
        version=none,
        trained=none.astype(np.bool_),
        turn=none,
        stop="abort",
        text="",
        opponent=opponent,
        abort=reason,
    )


def _common_beginning(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    width = min(one.size for one in sequences)
    rows = np.stack([one[:width] for one in sequences])
    different = (rows != rows[0]).any(0)
    return rows[0, : int(different.argmax()) if different.any() else width]
