"""What is known of the next step's first groups before its last ones are there."""

from __future__ import annotations

from torch import Tensor

from llmrl.batches.step import Step
from llmrl.policy.step import Known

Slices = tuple[Tensor, ...]
"""[n] scores of a group's trained tokens, one tensor for each column that is known."""


class Ahead:
    """Scores of groups, by the ordinals of their draws; good for as long as the weights are."""

    def __init__(self) -> None:
        self._scores: dict[int, Slices] = {}

    def keep(self, step: Step, known: Known) -> None:
        """Remember what is known of every group of ``step``, of which there will be more."""
        for group, ordinal in enumerate(step.ordinals):
            here = step.trained_of(group)
            self._scores[ordinal] = tuple(column[here] for column in _columns(known))

    def missing(self, step: Step) -> list[int]:
        """The groups of ``step`` that nothing is known of."""
        return [group for group, ordinal in enumerate(step.ordinals) if ordinal not in self._scores]

    def fill(self, step: Step, known: Known) -> None:
        """Write into what is known of the others."""
        for group, ordinal in enumerate(step.ordinals):
            if (scores := self._scores.get(ordinal)) is not None:
                here = step.trained_of(group)
                for column, part in zip(_columns(known), scores, strict=False):
                    column[here] = part

    def clear(self) -> None:
        """The weights are others now."""
        self._scores = {}


def _columns(known: Known) -> list[Tensor]:
    """The reference's come first: a step with too few groups for a second update does not ask for ``old``."""
    listed = [one for one in (known.reference, known.old) if one is not None]
    return [column for one in listed for column in (one.logp, one.entropy) if column is not None]
