"""One row of a step: a rollout of an experience, shifted and checked, before it becomes part of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, EngineError, TrainingError
from llmrl.experience.experience import Experience
from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.rollout import Rollout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """``mask``, ``advantage``, ``turn``, ``sampled`` and ``noise`` span the response."""

    tokens: NDArray[np.int32]
    """[N] what the model reads, the row's sequences end to end."""
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
    """None where nobody reads it."""
    reward: float
    """0 where nothing judged the response."""
    opponent: bool
    group: int


def row_of(experience: Experience, number: int, *, noise_seed: int | None) -> Row:
    """The row of one rollout.

    Raises:
        DataError: a segment that goes on from no tokens, so that nothing predicts its first one.
        EngineError: a rollout with arrays of unequal length, or a trained token's logprob is not finite.
        TrainingError: credit of another length than its rollout, or not finite.
    """
    group, rollout, advantage = (
        experience.group,
        experience.group.rollouts[number],
        experience.advantages[number],
    )
    where = f"response {number} to prompt '{group.prompt.id}'"
    _check(rollout, advantage, where)
    mask, pieces = rollout.trained, list(_pieces(group.prompt.tokens, rollout))
    if any(piece.predict_at[0] < 0 for piece in pieces):
        raise DataError(f"{where}: it goes on from no tokens, so nothing predicts its first one.")
    sizes = [piece.tokens.size for piece in pieces]
    places = [start + piece.predict_at for start, piece in zip(np.cumsum([0, *sizes]), pieces, strict=False)]
    return Row(
        tokens=np.concatenate([np.zeros(0, dtype=np.int32), *(piece.tokens for piece in pieces)]),
        sizes=tuple(sizes),
        predict_at=np.concatenate([np.zeros(0, dtype=np.int64), *places]),
        targets=rollout.tokens[mask],
        mask=mask,
        advantage=_within(mask, advantage),
        turn=_within(mask, rollout.turn),
        sampled=_within(mask, rollout.logp),
        noise=None if noise_seed is None else _noise(mask, derive_seed(noise_seed, group.ordinal, number)),
        reward=_reward(experience, number),
        opponent=rollout.opponent,
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


def stand_in() -> Row:
    """The row of a micro-batch without rows."""
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


def tokens_read(prompt: NDArray[np.int32], rollout: Rollout) -> int:
    """Tokens that the model reads of a rollout; 0 if nothing in it is trained."""
    return sum(piece.tokens.size for piece in _pieces(prompt, rollout))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """What the model reads of one segment."""

    tokens: NDArray[np.int32]
    """[N] everything before the last trained token: what comes later predicts nothing that is scored."""
    predict_at: NDArray[np.int64]
    """[M] positions that predict the segment's trained tokens; -1 where nothing does."""


def _pieces(prompt: NDArray[np.int32], rollout: Rollout) -> Iterator[_Piece]:
    """The segments in which anything is trained, each on its own: none sees what another one read."""
    for context, here in rollout.segments(prompt):
        trained = np.flatnonzero(rollout.trained[here])
        if trained.size:
            read = np.concatenate([context, rollout.tokens[here][: trained[-1]]])
            yield _Piece(tokens=read, predict_at=context.size + trained - 1)


def _noise(mask: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
    return _within(mask, np.random.default_rng(seed).random(mask.size, dtype=np.float32))


def _reward(experience: Experience, number: int) -> float:
    if not experience.judgements:
        return 0.0
    return experience.judgements[number].reward or 0.0


def _within(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """Zeros but for the masked places: what stands elsewhere, NaN included, is never read."""
    kept = np.zeros_like(values)
    kept[mask] = values[mask]
    return kept
