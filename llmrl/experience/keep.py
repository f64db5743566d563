"""Keep: which judged groups are worth a place in the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmrl.registry import Registry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup

keep: Registry[Keep] = Registry("keep")


class Keep(Protocol):
    """A frozen dataclass whose fields are its options."""

    def __call__(self, group: RolloutGroup, judgements: Sequence[Judgement], /) -> str | None:
        """None to train on the group, or the reason why not, in a few words that are counted."""
        ...


@keep("all")
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAll:
    """Every group that has at least one judged response."""

    def __call__(self, _group: RolloutGroup, judgements: Sequence[Judgement]) -> str | None:
        return None if any(j.reward is not None for j in judgements) else "nothing judged"


@keep("varied")
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepVaried:
    """Groups whose rewards differ; the others have no gradient under group credit."""

    def __call__(self, _group: RolloutGroup, judgements: Sequence[Judgement]) -> str | None:
        rewards = {j.reward for j in judgements if j.reward is not None}
        return None if len(rewards) > 1 else "rewards equal" if rewards else "nothing judged"
