"""What a step may cost before the run ends instead of going on for ever: failures and refused groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmrl.errors import RewardError
from llmrl.rewards.budget import ErrorBudget
from llmrl.rewards.judgement import Judgement

REFILLS = 20
"""A step may refuse this many times the groups that it needs; a reward that never varies refuses them all."""


class StepBudget:
    """Counts the groups that leave the queue, kept and refused alike."""

    def __init__(self, *, per_step: int, max_error_rate: float) -> None:
        self._per_step = per_step
        self._errors = ErrorBudget(max_error_rate)
        self._judgements: list[Judgement] = []
        self._groups = 0
        self._reasons: Counter[str] = Counter()

    def spend(self, judgements: Sequence[Judgement], refused: str | None) -> None:
        """One more group.

        Args:
            judgements: of its responses.
            refused: why the group is not trained on, or None.

        Raises:
            RewardError: among as many groups as a step has too many judgements failed, or the step
                refused too many groups.
        """
        self._judgements.extend(judgements)
        self._groups += 1
        if self._groups % self._per_step == 0:
            self._errors.check(self._judgements)
            self._judgements.clear()
        if refused is not None:
            self._reasons[refused] += 1
        if self._reasons.total() > REFILLS * self._per_step:
            reason, times = self._reasons.most_common(1)[0]
            raise RewardError(
                f"rewards: a step of {self._per_step} groups refused {self._reasons.total()} "
                f"(most often, {times} times: {reason}); change the task's difficulty or choose another keep."
            )

    def step_done(self) -> None:
        """The step has all its groups."""
        self._reasons.clear()
