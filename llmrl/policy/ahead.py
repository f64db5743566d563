"""What is known of the next step's first groups before its last ones are there."""

from __future__ import annotations

from torch import Tensor

from llmrl.batches.step import Step
from llmrl.errors import TrainingError
from llmrl.policy.step import Known

Slices = tuple[Tensor, ...]
"""[n] scores of a group's trained tokens, one tensor for each column that is known."""


class Ahead:
    """Scores of groups, by the ordinals of their draws; good for as long as the weights are."""

    def __init__(self) -> None:
        self._scores: dict[int, Slices] = {}

    def keep(self, step: Step, known: Known) -> None:
        """Remember what is known of these groups; others of the same step may come."""
        for group, ordinal in enumerate(step.ordinals):
            here = step.trained_of(group)
            self._scores[ordinal] = tuple(column[here] for column in _columns(known))

    def missing(self, step: Step) -> list[int]:
        """The groups of ``step`` that nothing is known of."""
        return [group for group, ordinal in enumerate(step.ordinals) if ordinal not in self._scores]

    def fill(self, step: Step, known: Known) -> None:
        """Write into what is known of the others.

        Raises:
            TrainingError: a group has other tokens now.
        """
        for group, ordinal in enumerate(step.ordinals):
            if (scores := self._scores.get(ordinal)) is None:
                continue
            here = step.trained_of(group)
            for column, part in zip(_columns(known), scores, strict=False):
                if column[here].shape != part.shape:
                    raise TrainingError(
                        f"draw {ordinal}: {part.numel()} tokens were scored ahead of the step, which has "
                        f"{column[here].numel()} of it; its pairing must choose the same ones every time."
                    )
                column[here] = part

    def clear(self) -> None:
        """The weights are others now."""
        self._scores = {}


def _columns(known: Known) -> list[Tensor]:
    """The reference's come first: a step with too few groups for a second update does not ask for ``old``."""
    listed = [one for one in (known.reference, known.old) if one is not None]
    return [column for one in listed for column in (one.logp, one.entropy) if column is not None]
