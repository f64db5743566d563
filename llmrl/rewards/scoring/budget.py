"""The error budget: how many failed judgements a step may have before the run ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.errors import RewardError
from llmrl.rewards.judgement import Judgement


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """A limit on a step's share of errors; a larger share than ``max_error_rate`` ends the run."""

    max_error_rate: float
    """Largest share in 0 .. 1, as ``scoring.max_error_rate``."""

    def check(self, judgements: Sequence[Judgement]) -> None:
        """Check all judgements of one step.

        Raises:
            RewardError: the budget is exceeded; the message has rate, limit and the most frequent note.
        """
        notes = Counter(judgement.note for judgement in judgements if judgement.status == "error")
        errors = notes.total()
        if errors <= self.max_error_rate * len(judgements):
            return
        note, times = notes.most_common(1)[0]
        raise RewardError(
            f"rewards: {errors} of {len(judgements)} judgements of a step failed "
            f"({errors / len(judgements):.1%}), scoring.max_error_rate allows {self.max_error_rate:.1%}. "
            f"Most frequent ({times} times): {note}."
        )
