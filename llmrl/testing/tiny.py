"""Tiny updates from a seed, with all that real ones have: ragged rows, gaps, turns, groups and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores
from llmrl.batches.unit import units
from llmrl.objectives.contract import Objective
from llmrl.testing.update import Update, totals_of

GROUPS, PER_GROUP, WIDTH = 3, 4, 8
ROWS = GROUPS * PER_GROUP
EMPTY_ROW = ROWS - 1
"""Row without trained tokens, as where the environment wrote all of it."""

PAIRED = ((0, 1), (2, 3), (0, 3), (4, 5), (6, 7), (8, 9))
"""Pairs in which row 0 occurs twice, rows 10 and 11 never. The second is the opponent's, if there is one."""


def tiny_update(objective: Objective, seed: int = 0) -> Update:
    """An update as the trainer hands it to this objective, in float64: only the columns that it reads.

    12 rows of up to 8 tokens in 3 groups of 4. Some rows have tokens of another author in their middle, with
    another turn of the policy behind them; the last row has no trained token. Objectives over pairs get
    pairs, those with an opponent get its rows.
    """
    draw = torch.Generator().manual_seed(seed)
    mask, turn = _layout(draw)
    reward = torch.randint(0, 2, (ROWS,), generator=draw).double()
    pairs = _pairs(reward) if compares(objective) else torch.zeros(0, 2, dtype=torch.int64)
    logp = _uniform(draw, -3.0, -0.05)
    batch = Batch(
        mask=mask,
        advantage=_advantage(draw, reward),
        reward=reward,
        group=torch.arange(ROWS) // PER_GROUP,
        turn=turn,
        pairs=pairs,
        opponent=_opponents(objective),
        sampled=TokenScores(logp=logp + 0.35 * _normal(draw)),
        old=TokenScores(logp=logp + 0.3 * _normal(draw), entropy=_uniform(draw, 0.1, 1.3)),
        reference=TokenScores(logp=logp + 0.5 * _normal(draw)),
        noise=torch.rand(ROWS, WIDTH, generator=draw, dtype=torch.float64),
    )
    current = TokenScores(logp=logp, entropy=_entropy(batch, draw))
    update = Update(current=current, batch=batch, totals=totals_of(batch, budget=WIDTH + 3))
    return _as_read(update.planted(0.0), objective)


def compares(objective: Objective) -> bool:
    """Whether the objective gets pairs."""
    return objective.bundle.trains_on == "pairs" or objective.bundle.pairing.name != "none"


def blocks(update: Update) -> list[list[int]]:
    """Blocks of rows that may not be split, as in training: single rows, and those that pairs connect."""
    return units(range(update.rows), cast("list[tuple[int, int]]", update.batch.pairs.tolist()))


def nothing(update: Update) -> Update:
    """The rows of a rank without rows: one row of one token that is not trained."""
    row = update.changed(tokens=lambda x: x.new_zeros(1, 1), rows=lambda x: x.new_zeros(1))
    pairs = torch.zeros(0, 2, dtype=torch.int64)
    return replace(row, batch=replace(row.batch, pairs=pairs, group=torch.tensor([-1])))


def _layout(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(ROWS, WIDTH, dtype=torch.bool)
    turn = torch.zeros(ROWS, WIDTH, dtype=torch.int64)
    for row in range(EMPTY_ROW):
        length = _between(draw, 1, WIDTH)
        mask[row, :length] = True
        if row % 2 and length > 3:
            gap = _between(draw, 1, length - 2)
            mask[row, gap : gap + _between(draw, 1, length - 1 - gap)] = False
            turn[row, gap:] = 1
    return mask, turn.where(mask, 0)


def _pairs(reward: Tensor) -> Tensor:
    ordered: Sequence[tuple[int, int]] = [(a, b) if reward[a] >= reward[b] else (b, a) for a, b in PAIRED]
    return torch.tensor(ordered)


def _opponents(objective: Objective) -> Tensor:
    rows = torch.zeros(ROWS, dtype=torch.bool)
    if compares(objective) and objective.bundle.opponent.kind != "none":
        rows[[second for _, second in PAIRED]] = True
    return rows


def _advantage(draw: torch.Generator, reward: Tensor) -> Tensor:
    """Credit of the response, not quite centred, times a token weight like that of corrections."""
    credit = reward - reward.view(GROUPS, PER_GROUP).mean(-1).repeat_interleave(PER_GROUP)
    spread = 0.2 * torch.randn(ROWS, generator=draw, dtype=torch.float64)
    return (credit + spread)[:, None] * _uniform(draw, 0.5, 2.0)


def _entropy(batch: Batch, draw: torch.Generator) -> Tensor:
    assert batch.old.entropy is not None
    return batch.old.entropy * _uniform(draw, 0.85, 1.15)


def _as_read(update: Update, objective: Objective) -> Update:
    """The update without the optional columns that the objective does not read."""
    reads, batch = objective.reads, update.batch
    batch = replace(
        batch,
        reference=batch.reference if "reference" in reads else None,
        noise=batch.noise if "noise" in reads else None,
    )
    if "entropy" in reads:
        return replace(update, batch=batch)
    return replace(
        update,
        current=replace(update.current, entropy=None),
        batch=replace(batch, old=replace(batch.old, entropy=None)),
    )


def _between(draw: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=draw))


def _uniform(draw: torch.Generator, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(ROWS, WIDTH, generator=draw, dtype=torch.float64)


def _normal(draw: torch.Generator) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)
