"""Rows of experience as tensors: packed inputs without padding, and the columns that an objective sees.

A row is one rollout of one experience. The model reads everything before the row's last trained token,
end to end with other rows; only trained tokens are scored. The shift by one, from the position that
predicts a token to the token, is made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores, Totals
from llmrl.errors import DataError, EngineError, TrainingError
from llmrl.experience.experience import Experience
from llmrl.rollouts.rollout import Rollout


class Inputs(NamedTuple):
    """What a model reads: the sequences of a micro-batch end to end, and which tokens to score.

    A tuple, because the hooks of ZeRO-3 look for tensors in tuples and warn about any other record.
    """

    tokens: Tensor
    """[1, N] int64 ids."""
    positions: Tensor
    """[1, N] int64, from 0 in each sequence."""
    cu_seqlens: Tensor
    """[S + 1] int32 where sequences begin, and N at the end; rows without inputs are not among them."""
    max_length: int
    """Tokens of the longest sequence."""
    predict_at: Tensor
    """[M] int64 positions in 0..N-1 whose hidden states predict the targets."""
    targets: Tensor
    """[M] int64 ids of the trained tokens, row by row."""

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
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
    """A micro-batch: what the model reads, and the columns that do not depend on any model.

    Every column is exactly 0 outside the mask. A micro-batch without rows has one row of one token that
    is not trained, so that every rank runs the same modules forward and backward.
    """

    inputs: Inputs
    slots: Tensor
    """[M] int64 place of each target in a flat [B * T]."""
    mask: Tensor
    """[B, T] bool."""
    advantage: Tensor
    """[B, T] float32."""
    group: Tensor
    """[B] int64 ordinal of the row's draw; -1 for the row that stands in for none."""
    turn: Tensor
    """[B, T] int64."""
    sampled: Tensor
    """[B, T] float32 nats, as the engine reported them."""

    @property
    def width(self) -> int:
        """T: tokens of the longest response."""
        return self.mask.shape[1]

    @property
    def trained_tokens(self) -> int:
        """M: tokens that are scored."""
        return self.slots.shape[0]

    def to(self, device: torch.device) -> Collated:
        """The same on another device."""
        return Collated(
            inputs=self.inputs.to(device),
            slots=self.slots.to(device),
            mask=self.mask.to(device),
            advantage=self.advantage.to(device),
            group=self.group.to(device),
            turn=self.turn.to(device),
            sampled=self.sampled.to(device),
        )

    def scores(self, logp: Tensor, entropy: Tensor | None) -> TokenScores:
        """What a model says of the [M] targets, at their places in [B, T] and 0 elsewhere."""
        return TokenScores(
            logp=self._spread(logp), entropy=None if entropy is None else self._spread(entropy)
        )

    def batch(self, *, old: TokenScores, reference: TokenScores | None = None) -> Batch:
        """What an objective sees, once the policy has scored its part."""
        return Batch(
            mask=self.mask,
            advantage=self.advantage,
            group=self.group,
            turn=self.turn,
            sampled=TokenScores(logp=self.sampled),
            old=old,
            reference=reference,
        )

    def _spread(self, values: Tensor) -> Tensor:
        if values.shape != self.slots.shape:
            raise ValueError(f"{tuple(values.shape)} scores for {self.trained_tokens} trained tokens.")
        flat = values.new_zeros(self.mask.numel()).index_put((self.slots,), values)
        return flat.view(self.mask.shape)


def rows_of(experiences: Sequence[Experience]) -> list[tuple[int, int]]:
    """The rows of a step in order: which experience, and which of its rollouts."""
    return [(e, r) for e, experience in enumerate(experiences) for r in range(len(experience.group.rollouts))]


def row_lengths(experiences: Sequence[Experience]) -> NDArray[np.int64]:
    """[rows] tokens that the model reads of each row; 0 if nothing in it is trained."""
    lengths = [
        _tokens_read(experience.group.prompt.tokens.size, rollout)
        for experience in experiences
        for rollout in experience.group.rollouts
    ]
    return np.array(lengths, dtype=np.int64)


def totals(experiences: Sequence[Experience]) -> Totals:
    """The denominators of a step; two trained responses to one prompt make a pair."""
    counts = [[int(r.trained.sum()) for r in e.group.rollouts] for e in experiences]
    responses = [sum(count > 0 for count in group) for group in counts]
    return Totals(
        tokens=sum(map(sum, counts)), responses=sum(responses), pairs=sum(number // 2 for number in responses)
    )


def collate(experiences: Sequence[Experience], rows: NDArray[np.int64]) -> Collated:
    """The tensors of some rows of a step.

    Raises:
        DataError: a prompt without tokens, from which no first token can be predicted.
        EngineError: a rollout with arrays of unequal length, or a trained token's logprob is not finite.
        TrainingError: credit of another length than its rollout, or not finite.
    """
    numbered = rows_of(experiences)
    places = [numbered[int(row)] for row in rows]
    pieces = [_row(experiences[experience], rollout) for experience, rollout in places] or [_stand_in()]
    width = max(1, *(piece.mask.size for piece in pieces))
    slots = [row * width + np.flatnonzero(piece.mask) for row, piece in enumerate(pieces)]
    return Collated(
        inputs=_inputs(pieces),
        slots=_joined(slots),
        mask=_column([piece.mask for piece in pieces], width, np.bool_),
        advantage=_column([piece.advantage for piece in pieces], width, np.float32),
        group=torch.tensor([piece.group for piece in pieces], dtype=torch.int64),
        turn=_column([piece.turn for piece in pieces], width, np.int64),
        sampled=_column([piece.sampled for piece in pieces], width, np.float32),
    )


def _inputs(pieces: Sequence[_Row]) -> Inputs:
    """The rows end to end; one token that nothing is predicted from where no row has any."""
    sizes = [piece.tokens.size for piece in pieces]
    starts = np.cumsum([0, *sizes[:-1]])
    predict_at = [
        start + piece.prompt_tokens + np.flatnonzero(piece.mask) - 1
        for start, piece in zip(starts, pieces, strict=True)
    ]
    tokens = [piece.tokens for piece in pieces] if any(sizes) else [np.zeros(1, dtype=np.int32)]
    lengths = [size for size in sizes if size] or [1]
    return Inputs(
        tokens=_joined(tokens)[None],
        positions=_joined([np.arange(length) for length in lengths])[None],
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        max_length=max(lengths),
        predict_at=_joined(predict_at),
        targets=_joined([piece.targets for piece in pieces]),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """One row, already shifted; ``mask``, ``advantage``, ``turn`` and ``sampled`` span the response."""

    tokens: NDArray[np.int32]
    prompt_tokens: int
    targets: NDArray[np.int32]
    mask: NDArray[np.bool_]
    advantage: NDArray[np.float32]
    turn: NDArray[np.int32]
    sampled: NDArray[np.float32]
    group: int


def _row(experience: Experience, number: int) -> _Row:
    group, rollout, advantage = (
        experience.group,
        experience.group.rollouts[number],
        experience.advantages[number],
    )
    where = f"response {number} to prompt '{group.prompt.id}'"
    _check(rollout, advantage, where)
    mask, prompt = rollout.trained, group.prompt.tokens
    if mask.any() and not prompt.size:
        raise DataError(f"{where}: the prompt has no tokens, so nothing predicts the first one.")
    return _Row(
        tokens=np.concatenate([prompt, rollout.tokens])[: _tokens_read(prompt.size, rollout)],
        prompt_tokens=prompt.size,
        targets=rollout.tokens[mask],
        mask=mask,
        advantage=_within(mask, advantage),
        turn=_within(mask, rollout.turn),
        sampled=_within(mask, rollout.logp),
        group=group.ordinal,
    )


def _check(rollout: Rollout, advantage: NDArray[np.float32], where: str) -> None:
    sizes = {rollout.tokens.size, rollout.logp.size, rollout.trained.size, rollout.turn.size}
    if len(sizes) > 1:
        raise EngineError(f"{where}: tokens, logp, trained and turn have lengths {sorted(sizes)}, not one.")
    if advantage.size != rollout.tokens.size:
        raise TrainingError(f"{where}: {rollout.tokens.size} tokens, but {advantage.size} advantages.")
    if not np.isfinite(rollout.logp[rollout.trained]).all():
        raise EngineError(
            f"{where}: the engine reported a logprob that is not finite for a token it sampled."
        )
    if not np.isfinite(advantage[rollout.trained]).all():
        raise TrainingError(f"{where}: the credit of a trained token is not finite.")


def _stand_in() -> _Row:
    """The row of a micro-batch without rows."""
    none, zero = np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.float32)
    return _Row(
        tokens=none,
        prompt_tokens=0,
        targets=none,
        mask=np.zeros(1, dtype=np.bool_),
        advantage=zero,
        turn=np.zeros(1, dtype=np.int32),
        sampled=zero,
        group=-1,
    )


def _tokens_read(prompt: int, rollout: Rollout) -> int:
    """Everything before the last trained token: what comes later predicts nothing that is scored."""
    trained = np.flatnonzero(rollout.trained)
    return prompt + int(trained[-1]) if trained.size else 0


def _within(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """Zeros but for the masked places: what stands elsewhere, NaN included, is never read."""
    kept = np.zeros_like(values)
    kept[mask] = values[mask]
    return kept


def _joined(parts: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _column(parts: list[NDArray[Any]], width: int, dtype: type[np.generic]) -> Tensor:
    padded = np.zeros((len(parts), width), dtype=dtype)
    for row, part in enumerate(parts):
        padded[row, : part.size] = part
    return torch.from_numpy(padded)
