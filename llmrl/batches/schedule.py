"""Assignment of rows to forward passes and ranks: micro-batches under a token budget, balanced by FLOPs.

A schedule is a pure function of the rows' lengths and costs, so every rank computes the same one and runs the
same number of collectives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import RecipeError

Lengths = NDArray[np.int64]
Costs = NDArray[np.float64]
Placement = NDArray[np.int64]
Microbatch = NDArray[np.int64]
Schedule = tuple[tuple[Microbatch, ...], ...]
"""Micro-batches by rank, equally many for each; one holds ascending row numbers and may be empty."""


def schedule(lengths: Lengths, cost: Costs, *, ranks: int, tokens_per_microbatch: int) -> Schedule:
    """Pack all rows into few micro-batches, as equal in FLOPs as the rows allow.

    Args:
        lengths: [N] tokens that the model reads of each row, or of rows that stay together; 0 is legal.
        cost: [N] FLOPs of each, in any unit.
        ranks: number of data-parallel ranks.
        tokens_per_microbatch: most tokens in one micro-batch.

    Returns:
        Every row exactly once.

    Raises:
        RecipeError: a row alone exceeds the budget.
    """
    budget = tokens_per_microbatch
    _refuse_long_rows(lengths, budget)
    bins, size = _pack(lengths, cost, budget=budget, step=ranks)
    bins = _even_out(bins, np.arange(size), lengths, cost, budget=budget)
    rank_of = _deal(_sums(bins, cost, size), ranks)
    bins = _even_out(bins, rank_of, lengths, cost, budget=budget)
    loads = _sums(bins, cost, size)
    ordered = [sorted(np.flatnonzero(rank_of == rank), key=lambda b: (-loads[b], b)) for rank in range(ranks)]
    return tuple(tuple(np.flatnonzero(bins == b) for b in mine) for mine in ordered)


def _refuse_long_rows(lengths: Lengths, budget: int) -> None:
    if lengths.size and int(lengths.max()) > budget:
        raise RecipeError(
            f"policy.tokens_per_microbatch is {budget}, but a response, or those that pairs connect with it, "
            f"take {int(lengths.max())} tokens; raise it to at least that, or lower "
            "prompts.max_tokens or rollouts.max_tokens."
        )


def _pack(lengths: Lengths, cost: Costs, *, budget: int, step: int) -> tuple[Placement, int]:
    """The bin of each row, and the number of bins: first-fit's, rounded up to a multiple of ``step``."""
    tight = _first_fit(lengths, cost, budget=budget)
    size = -(-(int(tight.max(initial=0)) + 1) // step) * step
    bins = _least_loaded_fit(lengths, cost, size=size, budget=budget)
    return (tight if bins is None else bins), size


def _dear_first(cost: Costs) -> NDArray[np.int64]:
    return np.lexsort((np.arange(cost.size), -cost))


def _first_fit(lengths: Lengths, cost: Costs, *, budget: int) -> Placement:
    """Put each row into the first bin with room: few bins, the last ones nearly empty."""
    bins = np.zeros(lengths.size, dtype=np.int64)
    room = np.full(max(1, lengths.size), budget, dtype=np.int64)
    for row in _dear_first(cost):
        bins[row] = (room >= lengths[row]).argmax()
        room[bins[row]] -= lengths[row]
    return bins


def _least_loaded_fit(lengths: Lengths, cost: Costs, *, size: int, budget: int) -> Placement | None:
    """Put each row into the cheapest bin with room: even bins; None if a row fits nowhere."""
    bins = np.zeros(lengths.size, dtype=np.int64)
    loads, room = np.zeros(size), np.full(size, budget, dtype=np.int64)
    for row in _dear_first(cost):
        fits = room >= lengths[row]
        if not fits.any():
            return None
        bins[row] = np.where(fits, loads, np.inf).argmin()
        loads[bins[row]] += cost[row]
        room[bins[row]] -= lengths[row]
    return bins


def _even_out(bins: Placement, owner: Placement, lengths: Lengths, cost: Costs, *, budget: int) -> Placement:
    """Trade rows between the dearest and the cheapest owner of bins for as long as that helps."""
    bins = bins.copy()
    owners = int(owner.max()) + 1
    for _ in range(8 * owners):
        loads = _sums(owner[bins], cost, owners)
        high, low = int(loads.argmax()), int(loads.argmin())
        if loads[high] < 1.005 * loads.mean():
            break
        room = budget - _sums(bins, lengths.astype(np.float64), owner.size)
        ours, theirs = np.flatnonzero(owner[bins] == high), np.flatnonzero(owner[bins] == low)
        # Their last candidate is no row at all: the traded row goes where they have the most room.
        roomiest = int(np.where(owner == low, room, -1).argmax())
        our_bins, their_bins = bins[ours], np.append(bins[theirs], roomiest)
        moved = lengths[ours][:, None] - np.append(lengths[theirs], 0)
        fits = (moved <= room[their_bins]) & (-moved <= room[our_bins][:, None])
        traded = _best_trade(cost[ours], np.append(cost[theirs], 0.0), fits, gap=loads[high] - loads[low])
        if traded is None:
            break
        give, take = traded
        bins[theirs[take : take + 1]] = our_bins[give]
        bins[ours[give]] = their_bins[take]
    return bins


def _best_trade(ours: Costs, theirs: Costs, fits: NDArray[np.bool_], *, gap: float) -> tuple[int, int] | None:
    """The trade of one of our rows for one of theirs that fits and leaves the smallest gap; None: no gain."""
    left = np.where(fits, np.abs(gap - 2 * (ours[:, None] - theirs)), np.inf)
    if not left.size or left.min() > 0.999 * gap:
        return None
    give, take = np.unravel_index(int(left.argmin()), left.shape)
    return int(give), int(take)


def _deal(loads: Costs, ranks: int) -> Placement:
    """The rank of each bin: equally many for each, the dearest bins first to the rank with the least."""
    rank_of = np.zeros(loads.size, dtype=np.int64)
    totals, left = np.zeros(ranks), np.full(ranks, loads.size // ranks)
    for index in _dear_first(loads):
        rank = int(np.where(left > 0, totals, np.inf).argmin())
        rank_of[index] = rank
        totals[rank] += loads[index]
        left[rank] -= 1
    return rank_of


def _sums(bins: Placement, cost: Costs, size: int) -> Costs:
    return np.bincount(bins, weights=cost, minlength=size).astype(np.float64)
