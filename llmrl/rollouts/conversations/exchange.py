"""A turn of the policy with what it got in return, and what several of them amount to: one rollout."""

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
    """One turn of the policy, and what it got in return."""

    said: Completion
    turn: Turn
    reply: Reply
    heard: Heard | None
    """What is read between this turn and the next one; None if this one is the last."""
    abort: str = ""
    """Why nobody goes on after it, where that is neither the policy's nor the environment's wish."""

    @property
    def stop(self) -> Stop:
        """How the conversation ended, if this is its last exchange; ``length`` also without room for more."""
        if self.abort:
            return "abort"
        return "length" if self.said.stop == "stop" and not self.reply.over else self.said.stop

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the policy said, and that were new to it afterwards."""
        return self.said.tokens.size, 0 if self.heard is None else self.heard.tokens.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a response, in tokens."""

    spoken: int
    """Of all that is said after the prompt, replies included; a past that is rewritten costs nothing."""
    context: int
    """Of what the policy reads and says in one piece."""
    turn: int | None = None
    """Of one turn of the policy; None leaves it what is left."""
    together: int | None = None
    """Of all segments together, which one micro-batch must hold; None leaves it to the others."""

    def room(self, opening: NDArray[np.int32], exchanges: Sequence[Exchange]) -> int:
        """Most tokens of the next turn; below 1 there is none."""
        read = [segment.size for segment in segments(opening, exchanges)]
        spoken = sum(sum(one.sizes) for one in exchanges)
        left = [self.spoken - spoken, self.context - read[-1]]
        left += [] if self.together is None else [self.together - sum(read)]
        return min(left)


def segments(opening: NDArray[np.int32], exchanges: Sequence[Exchange]) -> list[NDArray[np.int32]]:
    """[M] ids of each segment so far, the policy's turns included; the next turn goes on from the last one.

    Args:
        opening: what the first turn goes on from.
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
    """What the policy may learn from a conversation.

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
    """What was heard belongs to the segment of the turn that comes after it."""
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
    """One number on the tokens that were said, another on those that were heard."""
    return np.repeat(np.array([said, heard], dtype=np.int32), exchange.sizes)


def _versions(exchange: Exchange) -> NDArray[np.int32]:
    """Nobody sampled a reply: it counts as old as the turn before it, so that it makes nothing older."""
    version = exchange.said.version
    return np.concatenate([version, np.repeat(version[-1:], exchange.sizes[1])])


def _text(exchanges: Sequence[Exchange]) -> str:
    """The turns one below the other, replies quoted as in a letter."""
    lines: list[str] = []
    for one in exchanges:
        lines += [one.turn.text, *(f"> {line}" for line in one.reply.text.splitlines())]
    return "\n".join(lines)
