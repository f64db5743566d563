"""Preference credit: how much more often than not a response is preferred to its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.experience.credit import Memory, credit
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


@credit("preference")
@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceCredit:
    """The reward, a probability of being preferred, minus one half; nothing else of the group is looked at.

    Source: Munos et al. 2023, arXiv:2312.00886, equation 13, with the baseline 1/2 of self-play.
    """

    def __call__(
        self, groups: Sequence[RolloutGroup], judgements: Sequence[Sequence[Judgement]], _memory: Memory
    ) -> list[list[NDArray[np.float32]]]:
        return [
            [_advantage(r, j.reward) for r, j in zip(group.rollouts, judged, strict=True)]
            for group, judged in zip(groups, judgements, strict=True)
        ]


def _advantage(rollout: Rollout, reward: float | None) -> NDArray[np.float32]:
    advantage = 0.0 if reward is None or rollout.opponent else reward - 0.5
    return np.where(rollout.trained, np.float32(advantage), np.float32(0))
