"""Risk credit: bundles in the lower tail of scores weigh more than the middle, the best nothing (RiskPO).

Ren et al. 2025, "RiskPO: Risk-based Policy Optimization via Verifiable Reward", arXiv:2510.00911.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrl.experience.bundles import BundleCredit
from llmrl.experience.credit import Scores, credit, deviation

EPS = 1e-6
"""Added to every divisor, as in the released code."""

LEAST_DEVIATION = 1e-3
"""Least standard deviation to divide by."""


@credit("riskpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class Released(BundleCredit):
    """Risk credit as in the authors' code, with the options of their first script.

    A paper of score R is worth clip(R, low, high) - low over (beta - alpha), the middle, averaged with weight
    ``lower_weight`` with what it lacks below ``low`` over alpha, and with ``upper_weight`` with what it
    has above ``high`` over 1 - beta.
    """

    lower_weight: float = 1.5
    """Weight of the lower tail, where the middle has weight 1; 0 leaves it out."""
    upper_weight: float = 0.0
    """Weight of the upper tail, likewise: above 0 it seeks risk."""
    baseline: bool = False
    """Whether to subtract high - low from the middle, so that it is worth at most 0 to any paper."""
    scale: Literal["std", "none"] = "std"
    """Whether to divide by the standard deviation of the bundle's scores."""
    share: Literal["uniform", "score", "std", "sum_mean"] = "sum_mean"
    """Division of a paper's worth among its responses. ``uniform``: each has it. ``score``: half of it after
    a reward above 0, else 1.5 times it. ``std``: over the standard deviation of the question's rewards.
    ``sum_mean``: in proportion to the reward's distance from the question's mean; in equal parts where these
    distances cancel."""

    def __post_init__(self) -> None:
        BundleCredit.__post_init__(self)
        for name, weight in (("lower_weight", self.lower_weight), ("upper_weight", self.upper_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {weight}")

    def worth(self, rewards: Scores, low: float, high: float) -> Scores:
        scores = rewards.sum(0)
        worth = self.of_papers(scores, low, high)
        if self.scale == "std":
            worth = worth / (_divisor(scores) + EPS)
        return _shared(rewards, worth, self.share)

    def of_papers(self, scores: Scores, low: float, high: float) -> Scores:
        """[P] worth of papers by their [P] scores, before it is scaled and shared."""
        middle = _above(scores, low) - _above(scores, high) + (low - high if self.baseline else 0.0)
        worth = middle / (self.beta - self.alpha + EPS)
        lower = -_above(low, scores) / (self.alpha + EPS)
        worth = (self.lower_weight * lower + worth) / (self.lower_weight + 1)
        upper = _above(scores, high) / (1 - self.beta + EPS)
        return (self.upper_weight * upper + worth) / (self.upper_weight + 1)


@credit("riskpo_paper")
@dataclass(frozen=True, slots=True, kw_only=True)
class Paper(BundleCredit):
    """Risk credit as in the paper: the gradient of its mixed value at risk; no paper is worth more than 0."""

    omega: float = 0.5
    """Extra weight of the lower tail over the middle."""

    def __post_init__(self) -> None:
        BundleCredit.__post_init__(self)
        if not 0 <= self.omega < math.inf:
            raise ValueError(f"omega must be finite and not negative, got {self.omega}")

    def worth(self, rewards: Scores, low: float, high: float) -> Scores:
        return np.broadcast_to(self.of_papers(rewards.sum(0), low, high), rewards.shape)

    def of_papers(self, scores: Scores, low: float, high: float) -> Scores:
        """[P] worth of papers by their [P] scores."""
        middle = _above(scores, low) - _above(scores, high) + low - high
        return middle - (1 + self.omega) * _above(low, scores)


def _above(scores: Scores | float, level: Scores | float) -> Scores:
    return np.maximum(np.subtract(scores, level), 0.0)


def _divisor(rewards: Scores) -> float:
    """The standard deviation, or 1 where it is too small to divide by."""
    spread = deviation(rewards)
    return spread if spread >= LEAST_DEVIATION else 1.0


def _shared(rewards: Scores, worth: Scores, share: str) -> Scores:
    """[Q, P] credit of responses with [Q, P] rewards in papers worth [P]."""
    if share == "uniform":
        return np.broadcast_to(worth, rewards.shape)
    if share == "score":
        return worth * np.where(rewards > 0, 0.5, 1.5)
    if share == "std":
        return worth / (np.array([[_divisor(question)] for question in rewards]) + EPS)
    distance = rewards - rewards.mean(1, keepdims=True)
    total = distance.sum(0)
    cancels = np.abs(total) <= EPS
    return worth * np.where(cancels, 1 / len(rewards), distance / np.where(cancels, 1.0, total))
