"""Preference credit: how much more often than not a response is preferred to its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.experience.credit import Advantages, Credit, Judged, Memory, by_group, credit
from llmrl.rollouts.rollout import RolloutGroup


@credit("preference")
@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceCredit(Credit):
    """The reward, a probability of being preferred, minus one half; the group's other rewards do not matter.

    Source: Munos et al. 2023, arXiv:2312.00886, equation 13, with the baseline 1/2 of self-play.
    """

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Judged, _memory: Memory) -> Advantages:
        return by_group(groups, judgements, lambda rewards: rewards - 0.5)
