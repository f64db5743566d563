"""One row of a step: a rollout, shifted by one token, before it becomes part of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError
from llmrl.experience.columns import Columns
from llmrl.prompts.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One rollout; ``mask``, ``advantage``, ``turn``, ``sampled`` and ``noise`` span the response."""

    tokens: NDArray[np.int32]
    """[N] tokens that the model reads, the row's sequences end to end."""
    sizes: tuple[int, ...]
    """Tokens of each sequence: one, or one for each segment of the response in which anything is trained."""
    predict_at: NDArray[np.int64]
    """[M] positions in 0..N-1 whose hidden states predict the targets."""
    targets: NDArray[np.int32]
    mask: NDArray[np.bool_]
    advantage: NDArray[np.float32]
    turn: NDArray[np.int32]
    sampled: NDArray[np.float32]
    noise: NDArray[np.float32] | None
    """[L] noise in [0, 1); None where nothing reads it."""
    reward: float
    """Total reward; 0 where nothing judged the response."""
    opponent: bool
    group: int


def row_of(columns: Columns, number: int, *, noise_seed: int | None) -> Row:
    """One row of the columns.

    Raises:
        DataError: a segment goes on from no tokens, so that nothing predicts its first one.
    """
    here, group = columns.tokens_of(number), columns.group_of(number)
    mask, pieces = columns.trained[here], list(_pieces(columns, number))
    if any(piece.predict_at[0] < 0 for piece in pieces):
        raise DataError(
            f"{columns.where(number)}: it goes on from no tokens, so nothing predicts its first one."
        )
    sizes = [piece.tokens.size for piece in pieces]
    places = [start + piece.predict_at for start, piece in zip(np.cumsum([0, *sizes]), pieces, strict=False)]
    ordinal, inside = int(columns.ordinals[group]), number - int(columns.first[group])
    return Row(
        tokens=np.concatenate([np.zeros(0, dtype=np.int32), *(piece.tokens for piece in pieces)]),
        sizes=tuple(sizes),
        predict_at=np.concatenate([np.zeros(0, dtype=np.int64), *places]),
        targets=columns.tokens[here][mask],
        mask=mask,
        advantage=_within(mask, columns.advantage[here]),
        turn=_within(mask, columns.turn[here]),
        sampled=_within(mask, columns.logp[here]),
        noise=None if noise_seed is None else _noise(mask, derive_seed(noise_seed, ordinal, inside)),
        reward=float(columns.reward[number]),
        opponent=bool(columns.opponent[number]),
        group=ordinal,
    )


def stand_in() -> Row:
    """A placeholder row for a micro-batch without rows."""
    none, zero = np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.float32)
    return Row(
        tokens=none,
        sizes=(),
        predict_at=none.astype(np.int64),
        targets=none,
        mask=np.zeros(1, dtype=np.bool_),
        advantage=zero,
        turn=np.zeros(1, dtype=np.int32),
        sampled=zero,
        noise=None,
        reward=0.0,
        opponent=False,
        group=-1,
    )


def sizes_read(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[R] tokens that the model reads of each row, and [R] sums of its sequences' squared lengths.

    Both are 0 if nothing in the row is trained.
    """
    row, at, begin, end = columns.segments.T
    starts = columns.starts[row] + at
    trained = np.flatnonzero(columns.trained)
    first, past = np.searchsorted(trained, [starts, np.append(starts, columns.tokens.size)[1:]])
    last = np.append(trained, 0)[past - 1]
    read = np.where(past > first, end - begin + last - starts, 0)
    sums = [np.bincount(row, weights=each, minlength=columns.rows) for each in (read, read**2)]
    return sums[0].astype(np.int64), sums[1].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """The tokens of one segment that the model reads."""

    tokens: NDArray[np.int32]
    """[N] everything before the last trained token: what comes later predicts nothing that is scored."""
    predict_at: NDArray[np.int64]
    """[M] positions that predict the segment's trained tokens; -1 where nothing does."""


def _pieces(columns: Columns, number: int) -> Iterator[_Piece]:
    """The segments in which anything is trained, each on its own: none sees what another one read."""
    for context, here in columns.segments_of(number):
        trained = np.flatnonzero(columns.trained[here])
        if trained.size:
            read = np.concatenate([context, columns.tokens[here][: trained[-1]]])
            yield _Piece(tokens=read, predict_at=context.size + trained - 1)


def _noise(mask: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
    return _within(mask, np.random.default_rng(seed).random(mask.size, dtype=np.float32))


def _within(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """Zeros except at masked places: values elsewhere, NaN included, are never read."""
    kept = np.zeros_like(values)
    kept[mask] = values[mask]
    return kept
