"""What nobody finished is judged by nobody: an aborted response is an error with a reason, never a zero."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def overrule(group: RolloutGroup, judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """The judgements of a group, whatever they are, without a verdict on its aborted responses."""
    return tuple(map(_overruled, group.rollouts, judgements))


def _overruled(rollout: Rollout, judgement: Judgement) -> Judgement:
    if rollout.stop != "abort":
        return judgement
    return Judgement(status="error", reward=None, note=f"aborted: {rollout.abort}", seconds=judgement.seconds)
