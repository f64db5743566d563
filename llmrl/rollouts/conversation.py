"""A conversation of the policy with an environment: tokens in, tokens out, and only ever added to.

The ids that were sampled are kept as they are. Replies become ids once, by the model's template, and nothing
that was said is rendered, decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DeadlineError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.rollouts.engine import Completion, Engine, Request, Sampler
from llmrl.rollouts.environment import Environment, Reply, Turn
from llmrl.rollouts.host import Host
from llmrl.rollouts.partner import Partner
from llmrl.rollouts.rollout import Rollout, Stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchange:
    """One turn of the policy, and what it got in return."""

    said: Completion
    turn: Turn
    reply: Reply
    heard: NDArray[np.int32] | None
    """[K] ids between this turn and the next one; None if this one is the last."""
    abort: str = ""
    """Why nobody goes on after it, where that is neither the policy's nor the environment's wish."""

    @property
    def stop(self) -> Stop:
        """How the conversation ended, if this is its last exchange; ``length`` also without room for more."""
        if self.abort:
            return "abort"
        return "length" if self.said.stop == "stop" and not self.reply.over else self.said.stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """The conversations that begin with one draw; each has a number, and may share its beginning."""

    engine: Engine
    tokenizer: Tokenizer
    environment: Environment
    host: Host
    """Where the environment replies."""
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
            EngineError: the engine or the environment failed, or it replied otherwise than before. An
                environment without a reply in time aborts the conversation instead.
            ModelError: the chat template does not keep what was said.
        """
        seed = derive_seed(*self.seeds, "world")
        partner = Partner(environment=self.environment, prompt=self.prompt, seed=seed, host=self.host)
        exchanges = list(before)
        while not exchanges or exchanges[-1].heard is not None:
            exchanges.append(await self._exchange(partner, exchanges, sample, sampler))
        return tuple(exchanges)

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
        self, partner: Partner, before: Sequence[Exchange], sample: int, sampler: Sampler
    ) -> Exchange:
        number, spoken = len(before), _ids(before)
        said = await self.engine.generate(self._asked(number, spoken, sample, sampler))
        turn = Turn(
            text=self.tokenizer.decode(said.tokens),
            tokens=int(said.tokens.size),
            finished=said.stop == "stop",
        )
        if said.stop == "abort":
            return _aborted(said, turn, "the engine aborted the request")
        try:
            reply = await partner.reply(turn, [(one.turn, one.reply) for one in before])
        except DeadlineError as late:
            return _aborted(said, turn, str(late))
        room = self.max_tokens - spoken.size - said.tokens.size
        heard = None if reply.over else self._heard(before, said, turn, reply)
        if heard is not None and heard.size >= room:
            heard, reply = None, replace(reply, text="")
        return Exchange(said=said, turn=turn, reply=reply, heard=heard)

    def _heard(
        self, before: Sequence[Exchange], said: Completion, turn: Turn, reply: Reply
    ) -> NDArray[np.int32]:
        messages = list(self.prompt.messages)
        for text, answer in ((one.turn.text, one.reply.text) for one in before):
            messages += [Message(role="assistant", content=text), Message(role="user", content=answer)]
        messages.append(Message(role="assistant", content=turn.text))
        return self.tokenizer.encode_reply(messages, reply.text, after=int(said.tokens[-1]))


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
        abort=last.abort,
    )


def _aborted(said: Completion, turn: Turn, reason: str) -> Exchange:
    return Exchange(said=said, turn=turn, reply=Reply(over=True), heard=None, abort=reason)


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
