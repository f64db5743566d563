"""Scores of the next step's first groups, made before its last groups are there."""

from __future__ import annotations

from torch import Tensor

from llmrl.batches.step import Step
from llmrl.errors import TrainingError
from llmrl.policy.step import Known

Scores = dict[str, Tensor]
"""Scores of trained tokens by kind and weights, such as ``old.logp``: [N] of a step, or [n] of a group."""


class Ahead:
    """Scores of groups, by the ordinals of their draws; valid until the weights change."""

    def __init__(self) -> None:
        self._scores: dict[int, Scores] = {}

    def keep(self, step: Step, known: Known) -> None:
        """Remember the scores of these groups; others of the same step may follow."""
        for group, ordinal in enumerate(step.ordinals):
            here = step.trained_of(group)
            self._scores[ordinal] = {name: column[here] for name, column in _columns(known).items()}

    def missing(self, step: Step) -> list[int]:
        """The groups of ``step`` that have no scores yet."""
        return [group for group, ordinal in enumerate(step.ordinals) if ordinal not in self._scores]

    def fill(self, step: Step, known: Known) -> None:
        """Add the remembered scores to ``known``, which has those of the other groups.

        Raises:
            TrainingError: a group has other tokens now.
        """
        for group, ordinal in enumerate(step.ordinals):
            if (scores := self._scores.get(ordinal)) is None:
                continue
            here = step.trained_of(group)
            for name, column in _columns(known).items():
                part = scores[name]
                if column[here].shape != part.shape:
                    raise TrainingError(
                        f"draw {ordinal}: {part.numel()} tokens were scored ahead of the step, which has "
                        f"{column[here].numel()} of it; its pairing must choose the same ones every time."
                    )
                column[here] = part

    def clear(self) -> None:
        """Forget all scores, as the weights have changed."""
        self._scores = {}


def _columns(known: Known) -> Scores:
    """The columns that exist: a step with too few groups for a second update, say, has no ``old``."""
    scores = {"old": known.old, "reference": known.reference}
    return {
        f"{whose}.{name}": column
        for whose, of in scores.items()
        if of is not None
        for name, column in (("logp", of.logp), ("entropy", of.entropy))
        if column is not None
    }
