"""A group of judged rollouts with the credit of every token, as the policy trains on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import TrainingError
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experience:
    """One group, ready for the optimizer.

    Raises:
        TrainingError: the credit is for another number of responses, or of another length than its response.
    """

    group: RolloutGroup
    judgements: tuple[Judgement, ...]
    """Judgements, one per rollout; empty for demonstrations, which are not judged."""
    advantages: tuple[NDArray[np.float32], ...]
    """[L] advantages per rollout; exactly 0 on tokens that are not trained."""
    lag: int
    """Versions between the policy now and the weights of the group's oldest token."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Rollouts of the group to compare: the preferred one, then the other."""

    def __post_init__(self) -> None:
        tokens = [rollout.tokens.size for rollout in self.group.rollouts]
        credit = [advantage.size for advantage in self.advantages]
        if tokens != credit:
            whose = f"the responses to prompt '{self.group.prompt.id}'"
            raise TrainingError(f"{whose} have {tokens} tokens, but {credit} advantages, one for each token.")
