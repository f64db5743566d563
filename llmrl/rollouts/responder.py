"""The kinds of response: a turn of the policy, a conversation with an environment, or an agent's run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrl.prompts.prompt import Draw
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Stage
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.agents.contexts import Rendering
from llmrl.rollouts.agents.endpoint import Endpoint
from llmrl.rollouts.agents.group import AgentGroup
from llmrl.rollouts.conversations.branches import converse
from llmrl.rollouts.conversations.conversation import Conversation
from llmrl.rollouts.conversations.exchange import Limits
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.engines import Completion, Engine, Request, Sampling
from llmrl.rollouts.environments import Environment
from llmrl.rollouts.rollout import Rollout, RolloutGroup

Tell = Callable[[int, Rollout], None]
"""A callback for each response and its place in the group, as soon as it is known."""


class Responder(Protocol):
    """Produces the policy's responses to one draw, then the opponent's."""

    async def __call__(self, draw: Draw, sampling: Sampling, tell: Tell, /) -> RolloutGroup:
        """Produce all responses to a draw.

        Raises:
            EngineError: the engine or the environment failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """The common settings of all responses of a stage."""

    stage: Stage
    engine: Engine
    tokenizer: Tokenizer
    seed: int
    """The run's seed."""

    def seeds(self, draw: Draw, sampling: Sampling) -> tuple[int | str, ...]:
        """Parts of every seed of a draw."""
        again = (f"again {draw.tries}",) if draw.tries else ()
        return self.seed, sampling.purpose, draw.ordinal, draw.prompt.id, *again

    def limits(self, environment: Environment, sampling: Sampling) -> Limits:
        """The limits of a conversation with an environment."""
        return Limits(
            spoken=sampling.max_tokens,
            context=self.stage.model.context_tokens,
            turn=environment.max_turn_tokens,
            together=sampling.together,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SingleTurn:
    """Responses that are one completion each."""

    setting: Setting

    async def __call__(self, draw: Draw, sampling: Sampling, tell: Tell, /) -> RolloutGroup:
        """Complete all responses concurrently."""

        async def response(sample: int) -> Rollout:
            request = self.request(draw, sampling, sample)
            rollout = self._rollout(request, await self.setting.engine.generate(request))
            tell(sample, rollout)
            return rollout

        samples = range(sampling.per_prompt + sampling.opponents)
        rollouts = await asyncio.gather(*map(response, samples))
        return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=tuple(rollouts))

    def request(self, draw: Draw, sampling: Sampling, sample: int) -> Request:
        """The request to the engine for one response, by its place in the group."""
        room = self.setting.stage.model.context_tokens - draw.prompt.tokens.size
        return Request(
            id=f"{sampling.purpose}-{draw.ordinal}-{sample}",
            tokens=draw.prompt.tokens,
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            seed=derive_seed(*self.setting.seeds(draw, sampling), sample),
            sampler="policy" if sample < sampling.per_prompt else "opponent",
            order=sampling.order(draw.ordinal),
        )

    def _rollout(self, request: Request, completion: Completion) -> Rollout:
        size = completion.tokens.size
        return Rollout(
            tokens=completion.tokens,
            logp=completion.logp,
            version=completion.version,
            trained=np.ones(size, dtype=np.bool_),
            turn=np.zeros(size, dtype=np.int32),
            stop=completion.stop,
            text=self.setting.tokenizer.decode(completion.tokens),
            opponent=request.sampler == "opponent",
            abort="the engine aborted the request" if completion.stop == "abort" else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversations:
    """Responses that are one conversation with the environment each."""

    setting: Setting
    environment: Environment
    host: Host

    async def __call__(self, draw: Draw, sampling: Sampling, tell: Tell, /) -> RolloutGroup:
        """Hold all conversations concurrently, those of one branch from where they part."""
        rollouts = await converse(
            self.conversation(draw, sampling),
            per_prompt=sampling.per_prompt,
            branches=sampling.branches,
            opponents=sampling.opponents,
            tell=tell,
        )
        return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=rollouts)

    def conversation(self, draw: Draw, sampling: Sampling) -> Conversation:
        """The common part of a draw's conversations."""
        return Conversation(
            engine=self.setting.engine,
            tokenizer=self.setting.tokenizer,
            environment=self.environment,
            host=self.host,
            prompt=draw.prompt,
            name=f"{sampling.purpose}-{draw.ordinal}",
            order=sampling.order(draw.ordinal),
            seeds=self.setting.seeds(draw, sampling),
            limits=self.setting.limits(self.environment, sampling),
            temperature=sampling.temperature,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgentRuns:
    """Responses of one agent run each, with all its calls; none is reported before the group is complete."""

    setting: Setting
    agent: Agent
    endpoint: Endpoint
    places: asyncio.Semaphore

    async def __call__(self, draw: Draw, sampling: Sampling, _tell: Tell, /) -> RolloutGroup:
        """Run all agents concurrently, as far as there are places."""
        return await AgentGroup(
            agent=self.agent,
            endpoint=self.endpoint,
            engine=self.setting.engine,
            rendering=Rendering(tokenizer=self.setting.tokenizer, chat=self.setting.stage.model.chat),
            draw=draw,
            seeds=self.setting.seeds(draw, sampling),
            sampling=sampling,
            limits=self.setting.limits(self.agent, sampling),
            places=self.places,
        ).run()
