"""What a step may cost before the run ends instead of going on for ever: failures and refused groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmrl.errors import RewardError
from llmrl.experience.keep import Exhausted
from llmrl.rewards.judgement import Judgement
from llmrl.rewards.scoring.budget import ErrorBudget


class StepBudget:
    """Counts the groups that leave the queue, kept and refused alike."""

    def __init__(
        self, *, per_step: int, max_error_rate: float, refills: int = 10, when_exhausted: Exhausted = "stop"
    ) -> None:
        """Start a budget that resets with every step; ``refills``, ``when_exhausted``: those of the keep."""
        self._per_step, self._refills, self._when_exhausted = per_step, refills, when_exhausted
        self._errors = ErrorBudget(max_error_rate)
        self._judgements: list[Judgement] = []
        self._groups = 0
        self._kept = 0
        self._reasons: Counter[str] = Counter()

    @property
    def exhausted(self) -> bool:
        """Whether the step has refused too many groups; if that did not end the run, it seeks no others."""
        return self._reasons.total() > self._refills * self._per_step

    def spend(self, judgements: Sequence[Judgement], refused: str | None) -> None:
        """Count one more group.

        Args:
            judgements: the judgements of its responses.
            refused: why the group is not trained on, or None.

        Raises:
            RewardError: too many judgements failed among as many groups as a step has; or the step refused
                too many groups and has none, or may not be trained without the rest.
        """
        self._judgements.extend(judgements)
        self._groups += 1
        if self._groups % self._per_step == 0:
            self._errors.check(self._judgements)
            self._judgements.clear()
        if refused is None:
            self._kept += 1
        else:
            self._reasons[refused] += 1
        # Whether it kept any is known once all its places are given up, in whatever order groups were done.
        empty = not self._kept and self._reasons.total() >= (self._refills + 1) * self._per_step
        if empty or (self.exhausted and self._when_exhausted == "stop"):
            raise RewardError(self._verdict())

    def _verdict(self) -> str:
        reason, times = self._reasons.most_common(1)[0]
        return (
            f"rewards: a step of {self._per_step} groups kept {self._kept} and refused "
            f"{self._reasons.total()} (most often, {times} times: {reason}); begin a new run with "
            "tasks of another difficulty, or with another keep."
        )

    def step_done(self) -> None:
        """Reset the budget: the step has the groups that it trains on."""
        self._kept = 0
        self._reasons.clear()
