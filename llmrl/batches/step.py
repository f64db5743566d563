"""The rows of a step, numbered through all experiences: sizes, pairs, and some of them as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrl.batches.batch import Totals
from llmrl.batches.collate import Collated, collate
from llmrl.batches.row import row_of, tokens_read
from llmrl.batches.schedule import schedule
from llmrl.experience.experience import Experience

RowNumbers = NDArray[np.int64]


class Step:
    """What one step trains on. A pure function of the experiences, the same on every rank."""

    def __init__(
        self, experiences: Sequence[Experience], *, budget: int = 1, noise_seed: int | None = None
    ) -> None:
        """Number the rows of ``experiences``.

        Args:
            experiences: whole groups.
            budget: most tokens that a response may have.
            noise_seed: of the noise that a row's tokens get; None where nobody reads noise.
        """
        self._experiences, self._budget, self._noise_seed = experiences, budget, noise_seed
        self._places = [(e, r) for e, one in enumerate(experiences) for r in range(len(one.group.rollouts))]
        self._first = np.cumsum([0, *(len(one.group.rollouts) for one in experiences)])
        rollouts = [(experiences[e].group.prompt, experiences[e].group.rollouts[r]) for e, r in self._places]
        self.lengths: NDArray[np.int64] = np.array(
            [tokens_read(prompt.tokens, one) for prompt, one in rollouts], dtype=np.int64
        )
        """[rows] tokens that the model reads of each row; 0 if nothing in it is trained."""
        self.trained: NDArray[np.int64] = np.array([int(one.trained.sum()) for _, one in rollouts], np.int64)
        """[rows] tokens of each row that are scored."""
        self._starts = np.cumsum([0, *self.trained])

    @property
    def groups(self) -> int:
        """How many experiences there are."""
        return len(self._experiences)

    @property
    def tokens(self) -> int:
        """N: trained tokens of all rows."""
        return int(self.trained.sum())

    def rows(self, groups: Iterable[int]) -> RowNumbers:
        """The rows of some experiences, in their order."""
        return _joined([_range(*self._first[group : group + 2]) for group in groups])

    def totals(self, groups: Sequence[int]) -> Totals:
        """The denominators of an update on some experiences."""
        trained = self.trained[self.rows(groups)]
        return Totals(
            tokens=int(trained.sum()),
            responses=int((trained > 0).sum()),
            pairs=sum(len(self._experiences[group].pairs) for group in groups),
            budget=self._budget,
        )

    def microbatches(
        self, groups: Sequence[int], *, ranks: int, rank: int, tokens_per_microbatch: int
    ) -> list[Collated]:
        """The share of one rank in an update on some experiences; the rows of a pair stay together.

        Raises:
            RecipeError: a row, or a pair, alone exceeds the budget.
        """
        units = [unit for group in groups for unit in self._units(group)]
        lengths = np.array([self.lengths[unit].sum() for unit in units], dtype=np.int64)
        plan = schedule(lengths, ranks=ranks, tokens_per_microbatch=tokens_per_microbatch)
        return [
            self.collate(np.sort(_joined([units[int(number)] for number in numbers])))
            for numbers in plan.microbatches[rank]
        ]

    def collate(self, rows: RowNumbers) -> Collated:
        """The tensors of some rows, with the pairs among them.

        Raises:
            DataError, EngineError, TrainingError: what :func:`llmrl.batches.row.row_of` refuses.
        """
        made = [
            row_of(self._experiences[e], r, noise_seed=self._noise_seed)
            for e, r in (self._places[int(row)] for row in rows)
        ]
        at = _joined([_range(*self._starts[row : row + 2]) for row in rows])
        return collate(made, at=at, pairs=self._pairs_among(rows), noisy=self._noise_seed is not None)

    def _pairs(self, group: int) -> list[tuple[int, int]]:
        first = int(self._first[group])
        return [(first + one, first + other) for one, other in self._experiences[group].pairs]

    def _pairs_among(self, rows: RowNumbers) -> NDArray[np.int64]:
        position = {int(row): number for number, row in enumerate(rows)}
        groups = dict.fromkeys(self._places[row][0] for row in position)
        pairs = [pair for group in groups for pair in self._pairs(group)]
        here = [(position[a], position[b]) for a, b in pairs if a in position and b in position]
        return np.array(here, dtype=np.int64).reshape(-1, 2)

    def _units(self, group: int) -> list[RowNumbers]:
        """The rows of a group, those that pairs connect together."""
        unit_of = {int(row): {int(row)} for row in self.rows([group])}
        for one, other in self._pairs(group):
            joined = unit_of[one] | unit_of[other]
            unit_of |= dict.fromkeys(joined, joined)
        units = {min(unit): sorted(unit) for unit in unit_of.values()}
        return [np.array(units[first], dtype=np.int64) for first in sorted(units)]


def _range(start: int, stop: int) -> RowNumbers:
    return np.arange(start, stop, dtype=np.int64)


def _joined(parts: Sequence[RowNumbers]) -> RowNumbers:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
