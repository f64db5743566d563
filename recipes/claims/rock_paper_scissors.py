"""A preference without a reward behind it: rock beats scissors, scissors beat paper, paper beats rock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tasks import Problem, task
from llmrl.rewards import Sample, reward

THROWS = "rps"

SHARES = np.array([0.2, 0.2, 0.6])
"""Of the throws in the demonstrations, which the policy starts from: far too many scissors."""

PREFERENCE = np.array([[0.5, 0.2, 0.9], [0.8, 0.5, 0.3], [0.1, 0.7, 0.5]])
"""Probability that the row's throw is preferred to the column's."""


@task("throws")
@dataclass(frozen=True, slots=True, kw_only=True)
class Throws:
    """A number that means nothing, answered with one of three letters."""

    @property
    def characters(self) -> str:
        return f"0123456789={THROWS}"

    @property
    def size(self) -> int:
        return 9000

    def make(self, number: int) -> Problem:
        lot = derive_seed("throw", number) % 1_000_000 / 1_000_000
        throw = THROWS[int(np.searchsorted(SHARES.cumsum()[:-1], lot, side="right"))]
        return Problem(prompt=f"{1000 + number}=", answer=throw, response=throw)


@reward("throws.preferred")
@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """The probability that a response is preferred to its rivals; what is no throw loses to every throw."""

    reads_answer: ClassVar[bool] = False
    reads_rivals: ClassVar[Literal[True]] = True

    def __call__(self, sample: Sample) -> float:
        return float(np.mean([_preference(sample.response, rival) for rival in sample.rivals]))


@reward("throws.score")
@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a Bradley-Terry model makes of that preference, fitted to pairs of demonstrations."""

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float:
        scores = bradley_terry()
        return scores.get(sample.response, min(scores.values()) - 1)


def _preference(response: str, rival: str) -> float:
    places = [THROWS.find(text) if text else -1 for text in (response, rival)]
    if min(places) < 0:
        return 0.5 + 0.5 * ((places[0] >= 0) - (places[1] >= 0))
    return float(PREFERENCE[places[0], places[1]])


@cache
def bradley_terry(rounds: int = 20_000, rate: float = 0.5) -> Mapping[str, float]:
    """The scores of greatest likelihood, in nats, with mean 0; it is concave, so ascent finds them."""
    scores = np.zeros(len(THROWS))
    pairs = np.outer(SHARES, SHARES)
    for _ in range(rounds):
        predicted = 1 / (1 + np.exp(scores[None, :] - scores[:, None]))
        scores += rate * (pairs * (PREFERENCE - predicted)).sum(1)
    return dict(zip(THROWS, (scores - scores.mean()).tolist(), strict=True))


def nash() -> NDArray[np.float64]:
    """[3] the policy that no throw is preferred to: each throw's share is the other two's margin."""
    margin = PREFERENCE - 0.5
    rock, paper, scissors = margin[2, 1], margin[0, 2], margin[1, 0]
    return np.array([rock, paper, scissors]) / (rock + paper + scissors)


def nash_near_start(kl_weight: float, rounds: int = 200_000, rate: float = 0.05) -> NDArray[np.float64]:
    """[3] the equilibrium when both players also pay ``kl_weight`` times their KL from the demonstrations."""
    policy = SHARES.copy()
    for _ in range(rounds):
        gain = PREFERENCE @ policy - kl_weight * np.log(policy / SHARES)
        policy = policy * np.exp(rate * (gain - policy @ gain))
        policy /= policy.sum()
    return policy
