"""Credit: from the rewards of a group to the advantage of each of its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import RewardError, did_you_mean
from llmrl.registry import Registry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup

Memory = dict[str, Any]
"""State that a credit keeps between steps: JSON values, empty at first, kept in checkpoints."""

Scores = NDArray[np.float64]
"""One number per response; nan where the response takes no part."""

Judged = Sequence[Sequence[Judgement]]
"""The judgements of each group."""

Advantages = list[list[NDArray[np.float32]]]
"""Advantages, [L] per rollout per group."""


class Credit(Protocol):
    """A frozen dataclass whose fields are its options; inherit from this class."""

    @property
    def fewest(self) -> int:
        """Responses to a prompt that it needs in order to teach anything."""
        return 1

    @property
    def rewards(self) -> frozenset[str]:
        """Names of rewards that its options mention; the recipe must have them."""
        return frozenset()

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, memory: Memory, /) -> Advantages:
        """[L] advantages per rollout per group of a whole step; exactly 0 on tokens that are not trained.

        A judgement without a reward (an abstention or an error) takes no part: its rollout gets 0 everywhere
        and its group is compared without it. The opponent's responses take no part either.
        """
        ...


credit: Registry[Credit] = Registry("credit", base=Credit)


def rewards_of(group: RolloutGroup, judgements: Sequence[Judgement]) -> Scores:
    """[G] rewards; nan where there is none, or the opponent wrote the response."""
    return np.array(
        [
            np.nan if j.reward is None or r.opponent else j.reward
            for r, j in zip(group.rollouts, judgements, strict=True)
        ],
        dtype=np.float64,
    )


def on_tokens(group: RolloutGroup, scores: Scores) -> list[NDArray[np.float32]]:
    """[L] per rollout: its score on every trained token, 0 elsewhere and where the score is nan."""
    return [
        np.where(rollout.trained, np.float32(0 if np.isnan(score) else score), np.float32(0))
        for rollout, score in zip(group.rollouts, scores, strict=True)
    ]


def by_group(
    groups: Sequence[RolloutGroup], judgements: Judged, formula: Callable[[Scores], Scores]
) -> Advantages:
    """Apply a formula to the existing rewards of one group at a time."""
    return [
        on_tokens(group, _among_judged(rewards_of(group, js), formula))
        for group, js in zip(groups, judgements, strict=True)
    ]


def deviation(rewards: Scores) -> float:
    """The unbiased standard deviation of the existing rewards; 0 if there are fewer than two."""
    judged = rewards[~np.isnan(rewards)]
    return float(judged.std(ddof=1)) if judged.size > 1 else 0.0


@credit("group")
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCredit(Credit):
    """The reward minus the group's mean, over a standard deviation (GRPO).

    Source: Shao et al. 2024, arXiv:2402.03300; ``scale = "none"`` is Dr.GRPO, arXiv:2503.20783.
    """

    scale: Literal["group", "batch", "none"] = "group"
    """Divide by the unbiased standard deviation of the group's rewards, of the step's, or not at all."""
    eps: float = 1e-6
    """Added to the standard deviation."""
    lone: Literal["zero", "reward"] = "zero"
    """Advantage of a response without others to compare with: none, or as in verl the reward as it is,
    whatever the scale: as if the mean were 0 and the standard deviation 1."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")

    @property
    def fewest(self) -> int:
        return 2 if self.lone == "zero" else 1

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        rewards = [rewards_of(group, js) for group, js in zip(groups, judgements, strict=True)]
        batch = deviation(np.concatenate([np.zeros(0), *rewards]))
        return by_group(groups, judgements, lambda judged: self.compare(judged, batch=batch))

    def compare(self, rewards: Scores, *, batch: float) -> Scores:
        """[G] advantages of one group; ``batch`` is the standard deviation of the step's rewards."""
        if rewards.size == 1 and self.lone == "zero":
            return np.zeros(1)
        if rewards.size == 1:
            mean, own, batch = 0.0, 1.0, 1.0
        else:
            mean, own = rewards.mean(), deviation(rewards)
        divisor = {"group": own + self.eps, "batch": batch + self.eps, "none": 1.0}[self.scale]
        return (rewards - mean) / divisor


@credit("leave_one_out")
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut(Credit):
    """The reward minus the mean of the others' in the group; 0 for a response without others (RLOO).

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    """

    @property
    def fewest(self) -> int:
        return 2

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        return by_group(groups, judgements, self.compare)

    def compare(self, rewards: Scores) -> Scores:
        """[G] advantages of one group."""
        return (rewards - rewards.mean()) * rewards.size / max(1, rewards.size - 1)


@credit("reward")
@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCredit(Credit):
    """The reward itself, compared with nothing (REINFORCE; with the shaping ``whiten`` REINFORCE++).

    Source: Hu et al. 2025, "REINFORCE++", arXiv:2501.03262.
    """

    discount: float = 1.0
    """Factor for each trained token between a token and the end of the response."""

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must lie in (0, 1], got {self.discount}")

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        plain = by_group(groups, judgements, lambda rewards: rewards)
        return [
            [a * self._discounts(r.trained) for r, a in zip(group.rollouts, rows, strict=True)]
            for group, rows in zip(groups, plain, strict=True)
        ]

    def _discounts(self, trained: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[L] discount factors for a reward that comes with the last trained token."""
        after = trained[::-1].cumsum()[::-1] - trained
        return np.power(self.discount, after).astype(np.float32)


@credit("maxrl")
@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRL(Credit):
    """The reward minus the group's mean, over the mean: rare success counts more. Rewards are from 0 up."""

    eps: float = 1e-6
    """Added to the mean."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")

    @property
    def fewest(self) -> int:
        return 2

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        return by_group(groups, judgements, self.compare)

    def compare(self, rewards: Scores) -> Scores:
        """[G] advantages of one group.

        Raises:
            RewardError: a reward is below 0, so that the mean does not measure success.
        """
        if rewards.min() < 0:
            raise RewardError(
                f"credit 'maxrl' divides by the mean reward, which no reward below 0 may enter; "
                f"got {rewards.min()}."
            )
        return (rewards - rewards.mean()) / (rewards.mean() + self.eps)


@credit("opo")
@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBaseline(Credit):
    """The reward minus the group's mean weighted by length: the baseline of least variance, nearly (OPO).

    Source: Hao et al. 2025, "On-Policy RL with Optimal Reward Baseline", arXiv:2505.23585.
    """

    @property
    def fewest(self) -> int:
        return 2

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        return [
            on_tokens(group, self._scores(group, rewards_of(group, js)))
            for group, js in zip(groups, judgements, strict=True)
        ]

    def _scores(self, group: RolloutGroup, rewards: Scores) -> Scores:
        lengths = np.array([rollout.trained.sum() for rollout in group.rollouts])
        judged = ~np.isnan(rewards)
        return rewards - (rewards * lengths)[judged].sum() / max(1, lengths[judged].sum())


@credit("parts")
@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Credit):
    """Each named reward compared within its group by itself, then their weighted sum (GDPO).

    A reward that hardly varies counts as much as one that does. Source: Liu et al. 2026, arXiv:2601.05242,
    which whitens the sum over the step: the shaping ``whiten``.
    """

    weights: Mapping[str, float]
    """Factor of each named reward; those of the ``rewards`` tables are not used."""
    eps: float = 1e-6
    """Added to each standard deviation."""

    def __post_init__(self) -> None:
        if not self.weights or not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"weights must name rewards and be finite, got {dict(self.weights)}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")

    @property
    def fewest(self) -> int:
        return 2

    @property
    def rewards(self) -> frozenset[str]:
        return frozenset(self.weights)

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        return [
            on_tokens(group, sum((self._scores(group, js, part) for part in self.weights), np.zeros(len(js))))
            for group, js in zip(groups, judgements, strict=True)
        ]

    def _scores(self, group: RolloutGroup, judgements: Sequence[Judgement], part: str) -> Scores:
        judged = ~np.isnan(rewards_of(group, judgements))
        values = [
            part_of(j, part, key="credit.options.weights") if here else np.nan
            for j, here in zip(judgements, judged, strict=True)
        ]
        compare = GroupCredit(eps=self.eps).compare
        return self.weights[part] * _among_judged(np.array(values), lambda one: compare(one, batch=0.0))


def part_of(judgement: Judgement, part: str, *, key: str) -> float:
    """The score of one named reward; ``key`` is where the recipe names it.

    Raises:
        RewardError: no reward has that name.
    """
    if part not in judgement.parts:
        raise RewardError(f"{key}: no reward named '{part}'.{did_you_mean(part, judgement.parts)}")
    return judgement.parts[part]


def _among_judged(rewards: Scores, formula: Callable[[Scores], Scores]) -> Scores:
    """[G] results of the formula for the rewards that exist; nan elsewhere."""
    scores, judged = np.full(rewards.shape, np.nan), ~np.isnan(rewards)
    if judged.any():
        scores[judged] = formula(rewards[judged])
    return scores
