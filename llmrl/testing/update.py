"""An update in tests: all of its rows, the scores of a policy, and ways to lay them out anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores, Totals

Change = Callable[[Tensor], Tensor]


def _same(column: Tensor) -> Tensor:
    return column


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """All rows of one update, or some of them; ``totals`` are those of the whole update in either case."""

    current: TokenScores
    batch: Batch
    totals: Totals

    @property
    def rows(self) -> int:
        """B, the number of rows."""
        return self.batch.mask.shape[0]

    @property
    def width(self) -> int:
        """T, the number of tokens of the widest row."""
        return self.batch.mask.shape[1]

    def changed(self, *, tokens: Change = _same, rows: Change = _same) -> Update:
        """Map every [B, T] column through ``tokens``, every [B] column through ``rows``."""
        old = self.batch
        batch = replace(
            old,
            mask=tokens(old.mask),
            advantage=tokens(old.advantage),
            reward=rows(old.reward),
            group=rows(old.group),
            turn=tokens(old.turn),
            opponent=rows(old.opponent),
            sampled=_scores(old.sampled, tokens),
            old=_scores(old.old, tokens),
            reference=None if old.reference is None else _scores(old.reference, tokens),
            noise=None if old.noise is None else tokens(old.noise),
        )
        return replace(self, current=_scores(self.current, tokens), batch=batch)

    def part(self, rows: Sequence[int]) -> Update:
        """Take these rows in this order, no wider than the longest of them, with the pairs among them.

        Raises:
            ValueError: a pair has one row inside and one outside.
        """
        chosen = torch.tensor(rows, dtype=torch.int64)
        place = torch.full((self.rows,), -1).index_put((chosen,), torch.arange(len(rows)))
        inside = place[self.batch.pairs] >= 0
        if (inside.any(-1) != inside.all(-1)).any():
            raise ValueError(f"rows {list(rows)} part a pair; its two rows are always in the same call.")
        mask = self.batch.mask[chosen]
        width = max(1, int(mask.any(0).nonzero().max()) + 1 if mask.any() else 1)
        part = self.changed(tokens=lambda x: x[chosen, :width], rows=lambda x: x[chosen])
        pairs = place[self.batch.pairs][inside.all(-1)]
        return replace(part, batch=replace(part.batch, pairs=pairs))

    def widened(self, by: int) -> Update:
        """The same rows with ``by`` more tokens of padding on the right."""
        return self.changed(tokens=lambda x: torch.cat([x, x.new_zeros(x.shape[0], by)], dim=1))

    def planted(self, value: float) -> Update:
        """Plant ``value`` in every floating-point column outside the mask, where zeros are promised."""
        mask = self.batch.mask
        return self.changed(tokens=lambda x: x.where(mask, value) if x.is_floating_point() else x)

    def with_advantage(self, advantage: Tensor) -> Update:
        """A copy with other [B, T] credit."""
        return replace(self, batch=replace(self.batch, advantage=advantage))

    def cast(self, dtype: torch.dtype) -> Update:
        """Cast every floating-point column to another precision."""

        def change(column: Tensor) -> Tensor:
            return column.to(dtype) if column.is_floating_point() else column

        return self.changed(tokens=change, rows=change)


def totals_of(batch: Batch, *, budget: int) -> Totals:
    """The sizes of an update that consists of this batch."""
    return Totals(
        tokens=int(batch.mask.sum()),
        responses=int(batch.mask.any(-1).sum()),
        pairs=batch.pairs.shape[0],
        budget=budget,
    )


def _scores(scores: TokenScores, change: Change) -> TokenScores:
    entropy = None if scores.entropy is None else change(scores.entropy)
    return TokenScores(logp=change(scores.logp), entropy=entropy)
