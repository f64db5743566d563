"""A conversation of the policy with an environment: tokens in, tokens out, and only ever added to.

The ids that were sampled are kept as they are. Replies become ids once, by the model's template, and nothing
that was said is rendered, decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import EngineError, shown
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.rollouts.engine import Completion, Engine, Request, Sampler
from llmrl.rollouts.environment import Environment, Episode, Reply, Turn
from llmrl.rollouts.rollout import Rollout, Stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchange:
    """One turn of the policy, and what it got in return."""

    said: Completion
    turn: Turn
    reply: Reply
    heard: NDArray[np.int32] | None
    """[K] ids between this turn and the next one; None if this one is the last."""

    @property
    def stop(self) -> Stop:
        """How the conversation ended, if this is its last exchange; ``length`` also without room for more."""
        return "length" if self.said.stop == "stop" and not self.reply.over else self.said.stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """The conversations that begin with one draw; each has a number, and may share its beginning."""

    engine: Engine
    tokenizer: Tokenizer
    environment: Environment
    prompt: Prompt
    name: str
    """What its requests are called; unique in a run."""
    seeds: tuple[int | str, ...]
    """What every seed derives from: the run, the purpose and the draw."""
    max_tokens: int
    """Budget of everything after the prompt, replies included."""
    temperature: float

    async def go_on(
        self, before: Sequence[Exchange] = (), *, sample: int, sampler: Sampler = "policy"
    ) -> tuple[Exchange, ...]:
        """Sample until somebody ends it: from the prompt, or from where ``before`` leads.

        Args:
            before: none of them the last one of its conversation; they are part of what is returned.
            sample: number of this conversation; others have other seeds.
        Raises:
            EngineError: the engine or the environment failed, or it replied otherwise than before.
            ModelError: the chat template does not keep what was said.
        """
        episode, exchanges = await self._episode(before), list(before)
        while not exchanges or exchanges[-1].heard is not None:
            exchanges.append(await self._exchange(episode, exchanges, sample, sampler))
        return tuple(exchanges)

    async def _episode(self, before: Sequence[Exchange]) -> Episode:
        """An episode that has heard the turns so far."""
        try:
            episode = self.environment.start(self.prompt, seed=derive_seed(*self.seeds, "world"))
        except Exception as error:  # whatever a plugin raises is its author's to see
            raise EngineError(f"{self._environment} cannot begin with {self._failure(error)}") from error
        for number, exchange in enumerate(before):
            reply = await self._reply(episode, exchange.turn, number)
            if reply != exchange.reply:
                raise EngineError(
                    f"{self._environment} replied {shown(reply.text)} to turn {number} of prompt "
                    f"{shown(self.prompt.id)}, and {shown(exchange.reply.text)} before; equal seeds and "
                    f"turns must get equal replies, so all that is random must come from the seed."
                )
        return episode

    def _asked(self, number: int, spoken: NDArray[np.int32], sample: int, sampler: Sampler) -> Request:
        left = self.max_tokens - spoken.size
        return Request(
            id=f"{self.name}-{sample}-{number}",
            tokens=np.concatenate([self.prompt.tokens, spoken]),
            max_tokens=min(left, self.environment.max_turn_tokens or left),
            temperature=self.temperature,
            seed=derive_seed(*self.seeds, sample, number),
            sampler=sampler,
        )

    async def _exchange(
        self, episode: Episode, before: Sequence[Exchange], sample: int, sampler: Sampler
    ) -> Exchange:
        number, spoken = len(before), _ids(before)
        said = await self.engine.generate(self._asked(number, spoken, sample, sampler))
        turn = Turn(
            text=self.tokenizer.decode(said.tokens),
            tokens=int(said.tokens.size),
            finished=said.stop == "stop",
        )
        if said.stop == "abort":
            return Exchange(said=said, turn=turn, reply=Reply(over=True), heard=None)
        reply = await self._reply(episode, turn, number)
        room = self.max_tokens - spoken.size - said.tokens.size
        heard = None if reply.over else self._heard(before, said, turn, reply)
        if heard is not None and heard.size >= room:
            heard = None
        return Exchange(said=said, turn=turn, reply=reply, heard=heard)

    async def _reply(self, episode: Episode, turn: Turn, number: int) -> Reply:
        try:
            return await episode.reply(turn)
        except Exception as error:  # whatever a plugin raises is its author's to see
            raise EngineError(
                f"{self._environment} failed at turn {number} of {self._failure(error)}"
            ) from error

    def _heard(
        self, before: Sequence[Exchange], said: Completion, turn: Turn, reply: Reply
    ) -> NDArray[np.int32]:
        messages = list(self.prompt.messages)
        for text, answer in ((one.turn.text, one.reply.text) for one in before):
            messages += [Message(role="assistant", content=text), Message(role="user", content=answer)]
        messages.append(Message(role="assistant", content=turn.text))
        return self.tokenizer.encode_reply(messages, reply.text, after=int(said.tokens[-1]))

    def _failure(self, error: Exception) -> str:
        return f"prompt {shown(self.prompt.id)}: {type(error).__name__}: {error}"

    @property
    def _environment(self) -> str:
        return f"environment {type(self.environment).__name__}"


def rollout_of(exchanges: Sequence[Exchange], *, only: int | None = None, opponent: bool = False) -> Rollout:
    """What the policy may learn from a conversation.

    Args:
        only: number of the one turn to train; by default all turns of the policy.
        opponent: whether the opponent spoke in the policy's place.
    """
    owner = np.concatenate([_spread(one, said=number, heard=-1) for number, one in enumerate(exchanges)])
    trained = owner >= 0 if only is None else owner == only
    logp = np.concatenate([_padded(one.said.logp, one) for one in exchanges])
    last = exchanges[-1]
    return Rollout(
        tokens=_ids(exchanges),
        logp=np.where(trained, logp, np.float32(0)),
        version=np.concatenate([_versions(one) for one in exchanges]),
        trained=trained,
        turn=np.concatenate([_spread(one, said=n, heard=n) for n, one in enumerate(exchanges)]),
        stop=last.stop,
        text=_text(exchanges),
        opponent=opponent,
        outcome=last.reply.outcome,
    )


def _ids(exchanges: Sequence[Exchange]) -> NDArray[np.int32]:
    """[L] everything after the prompt."""
    pieces = [piece for one in exchanges for piece in (one.said.tokens, one.heard) if piece is not None]
    return np.concatenate([np.zeros(0, dtype=np.int32), *pieces])


def _heard_size(exchange: Exchange) -> int:
    return 0 if exchange.heard is None else exchange.heard.size


def _spread(exchange: Exchange, *, said: int, heard: int) -> NDArray[np.int32]:
    """One number on the tokens that were said, another on those that were heard."""
    sizes = [exchange.said.tokens.size, _heard_size(exchange)]
    return np.repeat(np.array([said, heard], dtype=np.int32), sizes)


def _padded(values: NDArray[np.float32], exchange: Exchange) -> NDArray[np.float32]:
    return np.pad(values, (0, _heard_size(exchange)))


def _versions(exchange: Exchange) -> NDArray[np.int32]:
    """Nobody sampled a reply: it counts as old as the turn before it, so that it makes nothing older."""
    version = exchange.said.version
    return np.concatenate([version, np.repeat(version[-1:], _heard_size(exchange))])


def _text(exchanges: Sequence[Exchange]) -> str:
    """The turns one below the other, replies quoted as in a letter."""
    lines: list[str] = []
    for one in exchanges:
        lines += [one.turn.text, *(f"> {line}" for line in one.reply.text.splitlines())]
    return "\n".join(lines)
