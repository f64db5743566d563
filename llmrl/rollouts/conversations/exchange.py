"""A turn of the policy with the reply to it, and the rollout that several of them make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.prompt import Rewrite
from llmrl.prompts.tokenizer import Heard
from llmrl.rollouts.engines import Completion
from llmrl.rollouts.environment import Reply, Turn
from llmrl.rollouts.rollout import Rollout, Stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchange:
    """One turn of the policy, and the reply to it."""

    said: Completion
    turn: Turn
    reply: Reply
    heard: Heard | None
    """Tokens between this turn and the next one; None if this one is the last."""
    abort: str = ""
    """Reason why it ends here, if neither the policy nor the environment ended it."""

    @property
    def stop(self) -> Stop:
        """How the conversation ended, if this is its last exchange; also ``length`` if no room is left."""
        if self.abort:
            return "abort"
        return "length" if self.said.stop == "stop" and not self.reply.over else self.said.stop

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the policy sampled, and new tokens that it read afterwards."""
        return self.said.tokens.size, 0 if self.heard is None else self.heard.tokens.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a response, in tokens."""

    spoken: int
    """Tokens after the prompt, replies included; a past that is rewritten costs nothing."""
    context: int
    """Tokens that the policy reads and writes in one piece."""
    turn: int | None = None
    """Tokens of one turn of the policy; None leaves it what is left."""
    together: int | None = None
    """Tokens of all segments together, which one micro-batch must hold; None leaves it to the others."""

    def room(self, opening: NDArray[np.int32], exchanges: Sequence[Exchange]) -> int:
        """Most tokens of the next turn; there is room for none if below 1."""
        read = [segment.size for segment in segments(opening, exchanges)]
        spoken = sum(sum(one.sizes) for one in exchanges)
        left = [self.spoken - spoken, self.context - read[-1]]
        left += [] if self.together is None else [self.together - sum(read)]
        return min(left)


def segments(opening: NDArray[np.int32], exchanges: Sequence[Exchange]) -> list[NDArray[np.int32]]:
    """[M] ids of each segment so far, the policy's turns included; the next turn goes on from the last one.

    Args:
        opening: the ids that the first turn goes on from.
    """
    pieces = [[opening]]
    for one in exchanges:
        pieces[-1].append(one.said.tokens)
        if one.heard is None:
            continue
        if one.heard.past is not None:
            pieces.append([one.heard.past])
        pieces[-1].append(one.heard.tokens)
    return [np.concatenate(segment) for segment in pieces]


def rollout_of(exchanges: Sequence[Exchange], *, only: int | None = None, opponent: bool = False) -> Rollout:
    """Make a rollout of a conversation.

    Args:
        only: number of the one turn to train; by default all turns of the policy.
        opponent: whether the opponent spoke in the policy's place.
    """
    owner = np.concatenate([_spread(one, said=number, heard=-1) for number, one in enumerate(exchanges)])
    trained = owner >= 0 if only is None else owner == only
    logp = np.concatenate([np.pad(one.said.logp, (0, one.sizes[1])) for one in exchanges])
    last = exchanges[-1]
    return Rollout(
        tokens=np.concatenate([_ids(one) for one in exchanges]),
        logp=np.where(trained, logp, np.float32(0)),
        version=np.concatenate([_versions(one) for one in exchanges]),
        trained=trained,
        turn=np.concatenate([_spread(one, said=n, heard=n) for n, one in enumerate(exchanges)]),
        stop=last.stop,
        text=_text(exchanges),
        last_turn=last.turn.text,
        opponent=opponent,
        outcome=last.reply.outcome,
        abort=last.abort,
        rewrites=tuple(_rewrites(exchanges)),
    )


def _rewrites(exchanges: Sequence[Exchange]) -> Iterator[Rewrite]:
    """The rewrites of the past; what was heard belongs to the segment of the turn after it."""
    at = 0
    for one in exchanges:
        said, heard = one.sizes
        if one.heard is not None and one.heard.past is not None:
            yield Rewrite(at=at + said, context=one.heard.past)
        at += said + heard


def _ids(exchange: Exchange) -> NDArray[np.int32]:
    said, heard = exchange.said.tokens, exchange.heard
    return said if heard is None else np.concatenate([said, heard.tokens])


def _spread(exchange: Exchange, *, said: int, heard: int) -> NDArray[np.int32]:
    """One number for each sampled token, another for each token that was heard."""
    return np.repeat(np.array([said, heard], dtype=np.int32), exchange.sizes)


def _versions(exchange: Exchange) -> NDArray[np.int32]:
    """Versions by token; a reply counts as old as the turn before it, so that it makes nothing older."""
    version = exchange.said.version
    return np.concatenate([version, np.repeat(version[-1:], exchange.sizes[1])])


def _text(exchanges: Sequence[Exchange]) -> str:
    """The turns one below the other, replies quoted as in a letter."""
    lines: list[str] = []
    for one in exchanges:
        lines += [one.turn.text, *(f"> {line}" for line in one.reply.text.splitlines())]
    return "\n".join(lines)
