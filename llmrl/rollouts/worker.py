"""The process around one engine: draws in, groups out, and new weights whenever they come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import EngineError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Draw
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Stage
from llmrl.registry import load_plugins
from llmrl.roles.switchboard import Member, Switchboard
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.agents.endpoint import Endpoint
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.engines import Engine, Sampling, Serving, engine
from llmrl.rollouts.environments import Environment
from llmrl.rollouts.news import DrawKey, Finished, News, key_of
from llmrl.rollouts.rehearsal import ready
from llmrl.rollouts.responder import AgentRuns, Conversations, Responder, Setting, SingleTurn
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.group import hang_up
from llmrl.weights.inbox import Inbox
from llmrl.weights.memory import machine
from llmrl.weights.proof import check_probe
from llmrl.weights.seat import Seat

NEWS_WAIT_S = 1.0
"""Longest wait for news, after which an empty answer shows that this process lives."""

GREETING = tuple(Message(role=role, content="a") for role in ("user", "assistant", "user"))


class RolloutWorker:
    """Owns one engine. A plain class: ``cluster.spawn`` makes it an actor, tests call it as it is."""

    def __init__(self, stage: Stage, device: str, seed: int, plugins: Sequence[str] = ()) -> None:
        self._stage, self._device, self._seed, self._plugins = stage, device, seed, plugins
        self._engine: Engine | None = None
        self._seat: Seat | None = None
        self._endpoint = Endpoint(stops=stage.rollouts.stop)
        self._host = Host()
        self._switchboard = Switchboard()
        self._under_way: dict[DrawKey, asyncio.Task[RolloutGroup]] = {}
        self._news = News()
        self._environment: Environment | None = None

    async def start(self, devices: str | None = None) -> None:
        """Load the model; the engine serves version 0 afterwards.

        Args:
            devices: the GPUs to use, as CUDA_VISIBLE_DEVICES has it, if Ray has given them to others.
        """
        if devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        load_plugins(self._plugins)
        self._tokenizer = load_tokenizer(self._stage.model)
        self._environment = await self._ready_environment()
        kind = engine.build(self._stage.engines.kind, {}, key="engines")
        self._inbox = Inbox(self._stage.model.folder, dtype=self._stage.model.dtype)
        self._engine = await kind.start(Serving.of(self._stage), device=self._device)
        if isinstance(self._environment, Agent):
            await self._endpoint.start()
        self._respond = self._responder(self._environment)

    async def meet(self, members: Mapping[str, Sequence[Member]]) -> None:
        """Take the processes of the roles that an environment asks, by role."""
        self._switchboard.connect(members, deadline_s=self._stage.cluster.call_deadline_s)

    async def generate(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        """Generate the policy's responses to one draw, then the opponent's.

        Equal draws and weights give equal responses on any engine, as far as ``Request.seed`` guarantees.

        Raises:
            EngineError: the engine or the environment failed, or ``abandon`` was called.
        """
        key = key_of(draw, sampling)
        self._under_way[key] = task = asyncio.create_task(self._group(draw, sampling))
        try:
            return await task
        except asyncio.CancelledError:
            raise EngineError(f"the responses to prompt '{draw.prompt.id}' were abandoned") from None
        finally:
            del self._under_way[key]
            self._news.forget(key)

    async def news(self) -> list[Finished]:
        """Responses finished since the last call whose group is still under way.

        Returns as soon as there is one, or without any after ``NEWS_WAIT_S``. Responses of an agent are left
        out, as they are only known once their common prompt is.
        """
        return await self._news.take(wait_s=NEWS_WAIT_S)

    async def abandon(self, draw: Draw, sampling: Sampling) -> None:
        """Stop generating for this draw; its caller has given up."""
        if task := self._under_way.get(key_of(draw, sampling)):
            task.cancel()

    async def _group(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        def tell(number: int, rollout: Rollout) -> None:
            self._news.tell(Finished(draw=key_of(draw, sampling), number=number, response=rollout.response))

        return await self._respond(draw, sampling, tell)

    async def score(self, sequences: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Logprobs of whole sequences, for the parity gate."""
        return list(await asyncio.gather(*(self._ready.score(tokens) for tokens in sequences)))

    async def machine(self) -> str:
        """An identifier equal for processes that can open each other's memory."""
        return machine()

    async def join(self, seat: Seat) -> None:
        """Have the engine join the group that weights are broadcast in."""
        self._seat = seat
        await self._ready.join(seat)

    async def hang_up(self, reason: str) -> None:
        """Have all members of that group give it up, if there is one: a member will not come any more."""
        if self._seat is not None:
            await asyncio.to_thread(hang_up, self._seat.address, reason)

    async def load(self, bundle: WeightBundle, copy: NDArray[np.uint8] | None = None) -> int:
        """Serve these weights; returns their version once the probe has proven them.

        Args:
            bundle: complete weights, or changes of the previous ones.
            copy: the bundle's bytes, if this machine cannot open their file.
        """
        complete = await asyncio.to_thread(self._inbox.take, bundle, copy)
        await self._ready.load(complete)
        logp = await self._ready.score(bundle.probe.tokens)  # while generation goes on
        check_probe(bundle, logp, dtype=self._stage.model.dtype)
        return bundle.version

    async def sleep(self) -> None:
        """Finish what is under way, which was given up, and leave the device until weights come."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self._ready.sleep()

    async def close(self) -> None:
        """Stop the engine; an environment that hangs ends with the process."""
        self._host.close()
        if self._environment is not None:
            self._environment.close()
        await self._endpoint.close()
        await self._switchboard.close()
        if self._engine is not None:
            await self._engine.close()

    @property
    def _ready(self) -> Engine:
        assert self._engine is not None, "start() comes first"
        return self._engine

    async def _ready_environment(self) -> Environment | None:
        chosen = self._stage.environment
        if chosen is None:
            return None
        if self._stage.model.chat:
            # A template that refuses every conversation of more than one turn does so before the first one.
            self._tokenizer.render(GREETING)
        if self._stage.roles:
            await self._switchboard.open()
        return ready(chosen, door=self._switchboard.url)

    def _responder(self, environment: Environment | None) -> Responder:
        stage, tokenizer = self._stage, self._tokenizer
        setting = Setting(stage=stage, engine=self._ready, tokenizer=tokenizer, seed=self._seed)
        if environment is None:
            return SingleTurn(setting=setting)
        if not isinstance(environment, Agent):
            return Conversations(setting=setting, environment=environment, host=self._host)
        at_once = stage.engines.max_sequences if environment.at_once is None else environment.at_once
        places = asyncio.Semaphore(at_once)
        return AgentRuns(setting=setting, agent=environment, endpoint=self._endpoint, places=places)
