"""Unfinished responses are not judged: an aborted response is an error with a reason, never a zero."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def overrule(group: RolloutGroup, judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Replace the judgements of aborted responses, whatever they are, by errors."""
    return tuple(map(_overruled, group.rollouts, judgements))


def _overruled(rollout: Rollout, judgement: Judgement) -> Judgement:
    if rollout.stop != "abort":
        return judgement
    return Judgement(status="error", reward=None, note=f"aborted: {rollout.abort}", seconds=judgement.seconds)
