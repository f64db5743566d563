"""The calls of one rollout of an agent, in order: each answered by the engine and recorded token by token."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.agents.contexts import Context, NoRoom, RefusedCall, Rendering
from llmrl.rollouts.conversations.exchange import Exchange, Limits, segments
from llmrl.rollouts.engines.engine import Completion, Engine, Request, Sampler
from llmrl.rollouts.environment import Reply, Turn

OVER = "the rollout of this key is over."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The endpoint's answer to one call."""

    exchange: Exchange
    read: int
    """Number of tokens that the model read."""


@dataclass(slots=True, kw_only=True, eq=False)
class AgentCalls:
    """One rollout under way."""

    engine: Engine
    rendering: Rendering
    name: str
    """Name of its requests; unique in a run."""
    order: int
    """Priority of its requests."""
    seeds: tuple[int | str, ...]
    """Parts of every call's seed, besides the call's number."""
    limits: Limits
    temperature: float
    sampler: Sampler = "policy"

    first: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    """[L] token ids of the first call's context."""
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    full: bool = False
    """Whether the last call found no room for an answer."""
    failure: Exception | None = None
    """Error of the engine, which is not the agent's fault."""
    gave_up: bool = False
    """Whether the engine left a call unfinished."""

    _said: Context = field(default=(), init=False)
    _over: bool = field(default=False, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _under_way: asyncio.Task[Completion] | None = field(default=None, init=False)

    async def answer(self, context: Context, *, most: int | None = None) -> Answer:
        """Answer one call; one at a time, in the order in which they come.

        A call that repeats the last one is a client's retry: it gets the same answer, and nothing new is
        sampled.

        Args:
            most: the agent's limit on tokens; None leaves it to the limits.
        Raises:
            RefusedCall: the call is impossible, the rollout is over, or the engine failed.
        """
        async with self._turn:
            self._refuse_if_over()
            if self.exchanges and _equal(context, self._said):
                return self._last()
            opening, exchanges = self._going_on(context)
            said = await self._generated(self._request(opening, exchanges, most))
            self._keep(context, opening, exchanges, said)
            return self._last()

    def end(self) -> None:
        """Refuse further calls, and drop what is being generated."""
        self._over = True
        if self._under_way is not None:
            self._under_way.cancel()

    def _refuse_if_over(self) -> None:
        if self._over or self.gave_up:
            raise RefusedCall(OVER)
        if self.failure is not None:
            raise RefusedCall(f"the engine failed: {self.failure}")

    def _going_on(self, context: Context) -> tuple[NDArray[np.int32], list[Exchange]]:
        """The rollout once a call is heard: its first context, and the exchanges."""
        if not self.exchanges:
            return self.rendering.whole(context), []
        *before, last = self.exchanges
        text, heard = self.rendering.heard(self._said, last, context)
        return self.first, [*before, dataclasses.replace(last, reply=Reply(text=text), heard=heard)]

    def _request(
        self, opening: NDArray[np.int32], exchanges: Sequence[Exchange], most: int | None
    ) -> Request:
        tokens, room = segments(opening, exchanges)[-1], self.limits.room(opening, exchanges)
        if room < 1:
            self.full = True
            # Clients distinguish this end from a failure by the words "context length".
            raise NoRoom(
                f"the context length leaves no room for an answer to {tokens.size} tokens: "
                f"rollouts.max_tokens allows {self.limits.spoken} after the first call, "
                f"model.context_tokens {self.limits.context} at once, and "
                f"policy.tokens_per_microbatch bounds all contexts of a rollout together."
            )
        return Request(
            id=f"{self.name}-{len(self.exchanges)}",
            tokens=tokens,
            max_tokens=min(room, self.limits.turn or room, most or room),
            temperature=self.temperature,
            seed=derive_seed(*self.seeds, len(self.exchanges)),
            sampler=self.sampler,
            order=self.order,
        )

    async def _generated(self, request: Request) -> Completion:
        self._under_way = asyncio.create_task(self.engine.generate(request))
        await asyncio.wait({self._under_way})
        if self._under_way.cancelled():
            raise RefusedCall(OVER)
        try:
            said = self._under_way.result()
        except Exception as error:
            self.failure = error
            raise RefusedCall(f"the engine failed: {error}") from error
        if said.stop == "abort":
            self.gave_up = True
            raise RefusedCall("the engine gave up on this call, so the rollout is over.")
        return said

    def _keep(
        self,
        context: Context,
        opening: NDArray[np.int32],
        exchanges: Sequence[Exchange],
        said: Completion,
    ) -> None:
        turn = Turn(
            text=self.rendering.tokenizer.decode(said.tokens),
            tokens=int(said.tokens.size),
            finished=said.stop == "stop",
        )
        self.first, self._said = opening, context
        self.full = False  # a shorter history has room again
        self.exchanges = [*exchanges, Exchange(said=said, turn=turn, reply=Reply(), heard=None)]

    def _last(self) -> Answer:
        *before, last = self.exchanges
        return Answer(exchange=last, read=segments(self.first, before)[-1].size)


def _equal(one: Context, other: Context) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return not isinstance(other, np.ndarray) and one == other
