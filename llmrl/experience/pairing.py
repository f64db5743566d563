"""Pairing: which responses of a judged group are compared with each other, and which one is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar, Protocol

from llmrl.registry import Registry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup

Pairs = tuple[tuple[int, int], ...]


class Pairing(Protocol):
    """A frozen dataclass whose fields are its options; inherit from this class."""

    together: ClassVar[int | None] = None
    """Most responses of a group that its pairs connect, one with the next, which share a micro-batch; None
    where it may be all of them."""
    within: ClassVar[int | None] = None
    """Size of the blocks, counted from a group's first response, within which pairs are made; None where that
    may be the group. Branches come in multiples of it, so that both of a pair part at the same turn."""

    def __call__(self, group: RolloutGroup, judgements: Sequence[Judgement], /) -> Pairs | None:
        """Pairs of rollout numbers, the preferred one first.

        It is called more than once; equal arguments give equal pairs. Responses in no pair are not trained
        on, and a group without any pair is dropped. None: this objective does not compare, and every response
        of the policy is trained on. A judgement without a reward is never in a pair.
        """
        ...

    def paired(self, own: int, opponents: int, /) -> int:
        """Most responses trained on in a group of ``own`` by the policy and ``opponents`` by the opponent."""
        return own + opponents


pairing: Registry[Pairing] = Registry("pairing", base=Pairing)


@pairing("none")
@dataclass(frozen=True, slots=True, kw_only=True)
class NoPairs(Pairing):
    """Makes no pairs."""

    together: ClassVar[int | None] = 1
    within: ClassVar[int | None] = 1

    def __call__(self, _group: RolloutGroup, _judgements: Sequence[Judgement]) -> None:
        return None

    def paired(self, own: int, _opponents: int) -> int:
        """All of the policy's responses."""
        return own


@pairing("extremes")
@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes(Pairing):
    """Pairs the response with the highest reward and the one with the lowest; equal rewards make no pair."""

    together: ClassVar[int | None] = 2

    def __call__(self, _group: RolloutGroup, judgements: Sequence[Judgement]) -> Pairs:
        judged = [(j.reward, number) for number, j in enumerate(judgements) if j.reward is not None]
        if not judged:
            return ()
        best, worst = max(judged, key=lambda one: one[0]), min(judged, key=lambda one: one[0])
        return ((best[1], worst[1]),) if best[0] > worst[0] else ()

    def paired(self, own: int, opponents: int) -> int:
        """Two responses, those of one pair."""
        return min(2, own + opponents)


@pairing("in_order")
@dataclass(frozen=True, slots=True, kw_only=True)
class InOrder(Pairing):
    """Pairs the first response with the second, the third with the fourth, better first; ties included."""

    together: ClassVar[int | None] = 2
    within: ClassVar[int | None] = 2

    def __call__(self, _group: RolloutGroup, judgements: Sequence[Judgement]) -> Pairs:
        rewards = [j.reward for j in judgements]
        pairs = zip(range(0, len(rewards) - 1, 2), range(1, len(rewards), 2), strict=True)
        return tuple(
            (a, b) if first >= second else (b, a)
            for a, b in pairs
            if (first := rewards[a]) is not None and (second := rewards[b]) is not None
        )

    def paired(self, own: int, opponents: int) -> int:
        """All but the last one of an odd number."""
        return (own + opponents) // 2 * 2


@pairing("opponent")
@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstOpponent(Pairing):
    """Pairs each response of the policy with one of the opponent's in turn; equal rewards make no pair."""

    def __call__(self, group: RolloutGroup, judgements: Sequence[Judgement]) -> Pairs:
        judged = [(number, j.reward) for number, j in enumerate(judgements) if j.reward is not None]
        own = [(number, reward) for number, reward in judged if not group.rollouts[number].opponent]
        theirs = [(number, reward) for number, reward in judged if group.rollouts[number].opponent]
        return tuple(
            (a, b) if first > second else (b, a)
            for (a, first), (b, second) in zip(own, cycle(theirs), strict=False)
            if first != second
        )

    def paired(self, own: int, opponents: int) -> int:
        """All of the policy's, with as many of the opponent's as they need."""
        return own + min(own, opponents) if opponents else 0
