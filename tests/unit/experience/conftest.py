"""A judged step of the smallest kind: groups of responses, and what was said of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llmrl.experience.credit import Credit, Memory
from llmrl.prompts.prompt import Prompt
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


class Steps:
    """Makes groups and their judgements."""

    def group(self, *masks: Sequence[int], ordinal: int = 0, opponents: int = 0) -> RolloutGroup:
        """A group whose responses train the tokens that are 1; the last ``opponents`` are the opponent's."""
        prompt = Prompt(id=f"p/{ordinal}", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
        written = len(masks) - opponents
        rollouts = [self._rollout(mask, opponent=n >= written) for n, mask in enumerate(masks)]
        return RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=tuple(rollouts))

    def judged(self, *rewards: float | None, **parts: Sequence[float]) -> list[Judgement]:
        """One judgement each; None is an error."""
        return [
            Judgement(
                status="error" if reward is None else "score",
                reward=reward,
                parts={} if reward is None else {name: values[n] for name, values in parts.items()},
            )
            for n, reward in enumerate(rewards)
        ]

    def lone_tokens(
        self, *rewards: Sequence[float | None]
    ) -> tuple[list[RolloutGroup], list[list[Judgement]]]:
        """Groups of one-token responses, numbered from 0, and their judgements."""
        groups = [self.group(*([1] for _ in group), ordinal=n) for n, group in enumerate(rewards)]
        return groups, [self.judged(*group) for group in rewards]

    def credited(
        self, estimator: Credit, *rewards: Sequence[float | None], memory: Memory | None = None
    ) -> list[list[float]]:
        """The advantage of each response in groups of one-token responses."""
        made = estimator(*self.lone_tokens(*rewards), {} if memory is None else memory)
        return [[float(one[0]) for one in group] for group in made]

    def _rollout(self, mask: Sequence[int], *, opponent: bool) -> Rollout:
        size = len(mask)
        return Rollout(
            tokens=np.zeros(size, np.int32),
            logp=np.zeros(size, np.float32),
            version=np.zeros(size, np.int32),
            trained=np.array(mask, dtype=bool),
            turn=np.zeros(size, np.int32),
            stop="stop",
            text="",
            opponent=opponent,
        )


@pytest.fixture(scope="session")
def steps() -> Steps:
    return Steps()
