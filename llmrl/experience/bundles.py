"""Bundles: questions of a step whose j-th responses together are paper j, scored by the sum of rewards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmrl.experience.credit import Advantages, Credit, Judged, Memory, Scores, on_tokens, rewards_of
from llmrl.rollouts.rollout import RolloutGroup

Order = Literal["arrival", "shuffled"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """Q questions with P papers; a response that is missing from all papers takes no part."""

    groups: NDArray[np.int64]
    """[Q] indices of the questions' groups in the step."""
    rollouts: NDArray[np.int64]
    """[Q, P] number of the response that each question contributes to each paper."""
    rewards: Scores
    """[Q, P] rewards of these responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleCredit(Credit):
    """Credit that compares papers, not responses; a subclass says what a paper is worth.

    The quantiles that papers are compared with are tracked over steps: they begin at those of the first
    step, and every step then moves each by ``rate`` times what its share of papers lacks.
    """

    questions: int = 5
    """Questions in a bundle; the last bundle of a step has what is left."""
    order: Order = "arrival"
    """Bundle questions and number their responses as drawn, or in an order drawn from the step's prompts."""
    alpha: float = 0.2
    """Share of papers below the lower quantile."""
    beta: float = 0.8
    """Share of papers below the upper quantile."""
    quantiles: Literal["batch", "track", "mix"] = "batch"
    """Quantiles to use: the bundle's own, those tracked up to the last step, or the mean of both."""
    rate: float = 0.1
    """Step size of the tracked quantiles, in units of the score."""

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ValueError(f"questions must be at least 1, got {self.questions}")
        if not 0 < self.alpha < self.beta < 1:
            raise ValueError(f"alpha and beta must be 0 < alpha < beta < 1, got {self.alpha} and {self.beta}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must lie in (0, 1], got {self.rate}")

    @property
    def fewest(self) -> int:
        """Responses needed; 2 with ``batch`` quantiles, where a single paper is both, and worth nothing."""
        return 2 if self.quantiles == "batch" else 1

    @abstractmethod
    def worth(self, rewards: Scores, low: float, high: float) -> Scores:
        """[Q, P] credit of the responses in a bundle.

        Args:
            rewards: [Q, P]; a paper's score is the sum over its questions.
            low, high: lower and upper quantile of the scores.
        """
        ...

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, memory: Memory) -> Advantages:
        bundles = bundles_of(groups, judgements, questions=self.questions, order=self.order)
        credits = [np.full(len(group.rollouts), np.nan) for group in groups]
        if bundles:
            tracked = self._tracked(np.concatenate([one.rewards.sum(0) for one in bundles]), memory)
            for bundle in bundles:
                worth = self.worth(bundle.rewards, *self.between(bundle.rewards.sum(0), tracked))
                for group, rollouts, row in zip(bundle.groups, bundle.rollouts, worth, strict=True):
                    credits[group][rollouts] = row
        return [on_tokens(group, scores) for group, scores in zip(groups, credits, strict=True)]

    def between(self, scores: Scores, tracked: Scores) -> tuple[float, float]:
        """The lower and the upper quantile that a bundle's [P] scores are compared with."""
        own = np.quantile(scores, [self.alpha, self.beta])
        low, high = {"batch": own, "track": tracked, "mix": (own + tracked) / 2}[self.quantiles]
        return float(low), float(high)

    def _tracked(self, scores: Scores, memory: Memory) -> Scores:
        """Return the tracked quantiles from before this step, and move them by its scores."""
        levels = np.array([self.alpha, self.beta])
        if "quantiles" not in memory:
            memory["quantiles"] = np.quantile(scores, levels).tolist()
            return np.array(memory["quantiles"])
        before = np.array(memory["quantiles"])
        memory["quantiles"] = moved(before, scores, levels, rate=self.rate).tolist()
        return before


def moved(values: Scores, scores: Scores, levels: Scores, *, rate: float) -> Scores:
    """Move [K] quantiles at [K] levels by one step of stochastic gradient towards those of the scores."""
    return values + rate * (levels - (scores < values[:, None]).mean(1))


def bundles_of(
    groups: Sequence[RolloutGroup], judgements: Judged, *, questions: int, order: Order
) -> list[Bundle]:
    """The bundles of a step, independent of the order of its groups.

    A question without a judged response is in none, and each bundle has as many papers as the question
    with the fewest judged responses allows: a paper with a question missing could not be compared.
    """
    rewards = [rewards_of(group, js) for group, js in zip(groups, judgements, strict=True)]
    judged = [np.flatnonzero(~np.isnan(one)) for one in rewards]
    asked = sorted((i for i in range(len(groups)) if judged[i].size), key=lambda i: groups[i].ordinal)
    if order == "shuffled":
        dice = np.random.default_rng([groups[i].ordinal for i in asked])
        asked = [asked[int(place)] for place in dice.permutation(len(asked))]
        judged = [
            np.random.default_rng(group.ordinal).permutation(one)
            for group, one in zip(groups, judged, strict=True)
        ]
    parts = [asked[start : start + questions] for start in range(0, len(asked), questions)]
    return [_bundle(part, [judged[i] for i in part], [rewards[i] for i in part]) for part in parts]


def _bundle(groups: list[int], judged: list[NDArray[np.int64]], rewards: list[Scores]) -> Bundle:
    papers = min(one.size for one in judged)
    rollouts = np.stack([one[:papers] for one in judged])
    return Bundle(
        groups=np.array(groups),
        rollouts=rollouts,
        rewards=np.stack([values[row] for values, row in zip(rewards, rollouts, strict=True)]),
    )
