"""The rows of a step: sizes, pairs, and some of them as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrl.batches.batch import Totals
from llmrl.batches.collate import Collated, collate
from llmrl.batches.row import row_of, sizes_read
from llmrl.batches.schedule import schedule
from llmrl.batches.unit import units
from llmrl.batches.work import Work
from llmrl.experience.columns import Columns

RowNumbers = NDArray[np.int64]


class Step:
    """The rows that one step trains on. A pure function of the columns, the same on every rank."""

    def __init__(self, columns: Columns, *, budget: int = 1, noise_seed: int | None = None) -> None:
        """Measure the rows of ``columns``.

        Args:
            columns: columns of whole groups.
            budget: most tokens that a response may have.
            noise_seed: seed of the noise for the rows' tokens; None where nothing reads noise.
        """
        self._columns, self._budget, self._noise_seed = columns, budget, noise_seed
        sizes, self._squares = sizes_read(columns)
        self.lengths: NDArray[np.int64] = sizes
        """[R] tokens that the model reads of each row; 0 if nothing in it is trained."""
        scored = np.concatenate([[0], np.cumsum(columns.trained, dtype=np.int64)])[columns.starts]
        self.trained: NDArray[np.int64] = np.diff(scored)
        """[R] tokens of each row that are scored."""
        self._starts = scored
        self._group_of_pair = np.searchsorted(columns.first, columns.pairs[:, 0], side="right") - 1

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self._columns.groups

    @property
    def tokens(self) -> int:
        """N: number of trained tokens of all rows."""
        return int(self.trained.sum())

    @property
    def ordinals(self) -> list[int]:
        """[G] ordinals of the groups' draws."""
        return self._columns.ordinals.tolist()

    def trained_of(self, group: int) -> slice:
        """The slice of a group's trained tokens among all N."""
        first, past = self._columns.first[group : group + 2]
        return slice(int(self._starts[first]), int(self._starts[past]))

    def rows(self, groups: Iterable[int]) -> RowNumbers:
        """The rows of some groups, in their order."""
        return _joined([_range(*self._columns.first[group : group + 2]) for group in groups])

    def totals(self, groups: Sequence[int]) -> Totals:
        """The denominators of an update on some groups."""
        trained = self.trained[self.rows(groups)]
        return Totals(
            tokens=int(trained.sum()),
            responses=int((trained > 0).sum()),
            pairs=sum(len(self._pairs(group)) for group in groups),
            budget=self._budget,
        )

    def microbatches(
        self, groups: Sequence[int], *, ranks: int, rank: int, tokens_per_microbatch: int, work: Work
    ) -> list[Collated]:
        """One rank's share in an update on some groups; the rows of a pair stay together.

        Args:
            groups: groups of the update.
            ranks: number of ranks that share it.
            rank: the rank whose share is returned.
            tokens_per_microbatch: most tokens that the model reads at once.
            work: the model's cost of rows; the ranks' shares cost as much as each other.

        Raises:
            RecipeError: a row, or a pair, alone exceeds the budget.
        """
        parts = [unit for group in groups for unit in self._units(group)]
        flops = work.of(tokens=self.lengths, scored=self.trained, squares=self._squares)
        plan = schedule(
            np.array([self.lengths[unit].sum() for unit in parts], dtype=np.int64),
            np.array([flops[unit].sum() for unit in parts], dtype=np.float64),
            ranks=ranks,
            tokens_per_microbatch=tokens_per_microbatch,
        )
        return [
            self.collate(np.sort(_joined([parts[int(number)] for number in numbers])))
            for numbers in plan[rank]
        ]

    def collate(self, rows: RowNumbers) -> Collated:
        """Turn some rows into tensors, with the pairs among them.

        Raises:
            DataError: as :func:`llmrl.batches.row.row_of`.
        """
        made = [row_of(self._columns, int(row), noise_seed=self._noise_seed) for row in rows]
        at = _joined([_range(*self._starts[row : row + 2]) for row in rows])
        return collate(made, at=at, pairs=self._pairs_among(rows), noisy=self._noise_seed is not None)

    def _pairs(self, group: int) -> NDArray[np.int64]:
        """[P, 2] rows of the group's pairs; those of a group lie together."""
        return self._columns.pairs[slice(*np.searchsorted(self._group_of_pair, [group, group + 1]))]

    def _pairs_among(self, rows: RowNumbers) -> NDArray[np.int64]:
        position = {int(row): number for number, row in enumerate(rows)}
        groups = dict.fromkeys(self._columns.group_of(row) for row in position)
        pairs = [pair for group in groups for pair in self._pairs(group).tolist()]
        here = [(position[a], position[b]) for a, b in pairs if a in position and b in position]
        return np.array(here, dtype=np.int64).reshape(-1, 2)

    def _units(self, group: int) -> list[RowNumbers]:
        """The rows of a group in units: rows that pairs connect stay together."""
        found = units(self.rows([group]).tolist(), self._pairs(group).tolist())
        return [np.array(unit, dtype=np.int64) for unit in found]


def _range(start: int, stop: int) -> RowNumbers:
    return np.arange(start, stop, dtype=np.int64)


def _joined(parts: Sequence[RowNumbers]) -> RowNumbers:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
