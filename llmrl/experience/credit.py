"""Credit: from the rewards of a group to the advantage of each of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrl.registry import Registry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup

credit: Registry[Credit] = Registry("credit")


class Credit(Protocol):
    """A frozen dataclass whose fields are its options."""

    def __call__(
        self, groups: Sequence[RolloutGroup], judgements: Sequence[Sequence[Judgement]]
    ) -> list[list[NDArray[np.float32]]]:
        """[L] advantages per rollout per group of a whole step; exactly 0 on tokens that are not trained.

        A judgement without a reward (an abstention or an error) takes no part: its rollout gets 0
        everywhere and its group is compared without it.
        """
        ...


@credit("group")
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCredit:
    """The reward minus the group's mean, over the group's standard deviation (GRPO).

    Source: Shao et al. 2024, arXiv:2402.03300; ``scale = "none"`` is Dr.GRPO, arXiv:2503.20783.
    """

    scale: Literal["group", "none"] = "group"
    """Divide by the group's unbiased standard deviation, or not at all."""
    eps: float = 1e-6
    """Added to the standard deviation."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")

    def __call__(
        self, groups: Sequence[RolloutGroup], judgements: Sequence[Sequence[Judgement]]
    ) -> list[list[NDArray[np.float32]]]:
        return [
            [
                np.where(r.trained, np.float32(a), np.float32(0))
                for r, a in zip(group.rollouts, self._scores(js), strict=True)
            ]
            for group, js in zip(groups, judgements, strict=True)
        ]

    def _scores(self, judgements: Sequence[Judgement]) -> NDArray[np.float64]:
        rewards = np.array([np.nan if j.reward is None else j.reward for j in judgements], dtype=np.float64)
        judged = np.isfinite(rewards)
        if judged.sum() < 2:
            # Nothing to compare with: a lone response carries no signal.
            return np.zeros(len(rewards))
        centred = rewards - rewards[judged].mean()
        if self.scale == "group":
            centred = centred / (rewards[judged].std(ddof=1) + self.eps)
        return np.where(judged, centred, 0.0)
