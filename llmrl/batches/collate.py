"""Rows of a step as tensors: packed inputs without padding, and the columns that an objective sees.

A row is one rollout of one experience. The model reads everything before the row's last trained token, and
only trained tokens are scored. Where the past was rewritten it reads one sequence for each segment; for the
objective it is still one row. All sequences lie end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores
from llmrl.batches.row import Row, stand_in


class Inputs(NamedTuple):
    """What a model reads: the sequences of a micro-batch end to end, and which tokens to score.

    A tuple, because the hooks of ZeRO-3 look for tensors in tuples and warn about any other record.
    """

    tokens: Tensor
    """[1, N] int64 token ids."""
    positions: Tensor
    """[1, N] int64 positions, from 0 in each sequence."""
    cu_seqlens: Tensor
    """[S + 1] int32 starts of the sequences, then N; a row may have none, one or several sequences."""
    max_length: int
    """Length of the longest sequence in tokens."""
    predict_at: Tensor
    """[M] int64 positions in 0..N-1 whose hidden states predict the targets."""
    targets: Tensor
    """[M] int64 ids of the trained tokens, row by row."""

    def to(self, device: torch.device) -> Inputs:
        """A copy on another device."""
        return Inputs(
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            max_length=self.max_length,
            predict_at=self.predict_at.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collated:
    """A micro-batch: the model's inputs, and the columns that do not depend on any model.

    Every column is exactly 0 outside the mask. A micro-batch without rows has one row of one token that
    is not trained, so that every rank runs the same modules forward and backward.
    """

    inputs: Inputs
    slots: Tensor
    """[M] int64 places of the targets in a flat [B * T]."""
    at: Tensor
    """[M] int64 places of the targets among the trained tokens of the whole step, row by row."""
    mask: Tensor
    """[B, T] bool, True on trained tokens."""
    advantage: Tensor
    """[B, T] float32 credit."""
    reward: Tensor
    """[B] float32 total reward."""
    group: Tensor
    """[B] int64 ordinal of the row's draw; -1 for the row that stands in for none."""
    turn: Tensor
    """[B, T] int64 index of the policy's turn."""
    pairs: Tensor
    """[P, 2] int64 rows of this micro-batch: the preferred one, then the other."""
    opponent: Tensor
    """[B] bool, True where the opponent wrote the response."""
    sampled: Tensor
    """[B, T] float32 nats as the engine reported them."""
    noise: Tensor | None
    """[B, T] float32 noise in [0, 1); None where nothing reads it."""

    @property
    def width(self) -> int:
        """T: length of the longest response in tokens."""
        return self.mask.shape[1]

    @property
    def trained_tokens(self) -> int:
        """M: number of tokens that are scored."""
        return self.slots.shape[0]

    def to(self, device: torch.device) -> Collated:
        """A copy on another device."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in columns.items()}
        return Collated(**moved)

    def scores(self, logp: Tensor, entropy: Tensor | None) -> TokenScores:
        """A model's scores of the [M] targets, at their places in [B, T] and 0 elsewhere."""
        return TokenScores(logp=self.spread(logp), entropy=None if entropy is None else self.spread(entropy))

    def taken(self, flat: TokenScores) -> TokenScores:
        """This micro-batch's part of [N] scores of all trained tokens of the step."""
        return self.scores(flat.logp[self.at], None if flat.entropy is None else flat.entropy[self.at])

    def batch(self, *, old: TokenScores, reference: TokenScores | None = None) -> Batch:
        """The batch as an objective sees it, once the policy has scored its part."""
        return Batch(
            mask=self.mask,
            advantage=self.advantage,
            reward=self.reward,
            group=self.group,
            turn=self.turn,
            pairs=self.pairs,
            opponent=self.opponent,
            sampled=TokenScores(logp=self.sampled),
            old=old,
            reference=reference,
            noise=self.noise,
        )

    def spread(self, values: Tensor) -> Tensor:
        """[B, T] values of the [M] targets at their places, and 0 elsewhere."""
        if values.shape != self.slots.shape:
            raise ValueError(f"{tuple(values.shape)} scores for {self.trained_tokens} trained tokens.")
        flat = values.new_zeros(self.mask.numel()).index_put((self.slots,), values)
        return flat.view(self.mask.shape)


def collate(
    rows: Sequence[Row], *, at: NDArray[np.int64], pairs: NDArray[np.int64], noisy: bool = False
) -> Collated:
    """Turn some rows into tensors.

    Args:
        rows: rows in the order of the columns; none is legal.
        at: [M] places of their trained tokens among those of the step.
        pairs: [P, 2] which of the rows are compared.
        noisy: whether the rows have noise.
    """
    pieces = list(rows) or [stand_in()]
    width = max(1, *(piece.mask.size for piece in pieces))
    noise = [piece.noise for piece in pieces if piece.noise is not None]  # the stand-in has none
    slots = [row * width + np.flatnonzero(piece.mask) for row, piece in enumerate(pieces)]
    return Collated(
        inputs=_inputs(pieces),
        slots=_joined(slots),
        at=torch.from_numpy(at.astype(np.int64)),
        mask=_column([piece.mask for piece in pieces], width, np.bool_),
        advantage=_column([piece.advantage for piece in pieces], width, np.float32),
        reward=torch.tensor([piece.reward for piece in pieces], dtype=torch.float32),
        group=torch.tensor([piece.group for piece in pieces], dtype=torch.int64),
        turn=_column([piece.turn for piece in pieces], width, np.int64),
        pairs=torch.from_numpy(pairs.astype(np.int64).reshape(-1, 2)),
        opponent=torch.tensor([piece.opponent for piece in pieces]),
        sampled=_column([piece.sampled for piece in pieces], width, np.float32),
        noise=_column(noise or [np.zeros(1)], width, np.float32) if noisy else None,
    )


def _inputs(pieces: Sequence[Row]) -> Inputs:
    """Pack the rows end to end; where no row has tokens, one token from which nothing is predicted."""
    sizes = [piece.tokens.size for piece in pieces]
    starts = np.cumsum([0, *sizes[:-1]])
    predict_at = [start + piece.predict_at for start, piece in zip(starts, pieces, strict=True)]
    tokens = [piece.tokens for piece in pieces] if any(sizes) else [np.zeros(1, dtype=np.int32)]
    lengths = [size for piece in pieces for size in piece.sizes] or [1]
    return Inputs(
        tokens=_joined(tokens)[None],
        positions=_joined([np.arange(length) for length in lengths])[None],
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        max_length=max(lengths),
        predict_at=_joined(predict_at),
        targets=_joined([piece.targets for piece in pieces]),
    )


def _joined(parts: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _column(parts: list[NDArray[Any]], width: int, dtype: type[np.generic]) -> Tensor:
    padded = np.zeros((len(parts), width), dtype=dtype)
    for row, part in enumerate(parts):
        padded[row, : part.size] = part
    return torch.from_numpy(padded)
