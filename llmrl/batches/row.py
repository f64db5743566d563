"""One row of a step: a rollout of an experience, shifted and checked, before it becomes part of a tensor."""

from __future__ import annotations

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
    prompt_tokens: int
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
        DataError: a prompt without tokens, from which no first token can be predicted.
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
    mask, prompt = rollout.trained, group.prompt.tokens
    if mask.any() and not prompt.size:
        raise DataError(f"{where}: the prompt has no tokens, so nothing predicts the first one.")
    return Row(
        tokens=np.concatenate([prompt, rollout.tokens])[: tokens_read(prompt.size, rollout)],
        prompt_tokens=prompt.size,
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
        prompt_tokens=0,
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


def tokens_read(prompt: int, rollout: Rollout) -> int:
    """Everything before the last trained token: what comes later predicts nothing that is scored."""
    trained = np.flatnonzero(rollout.trained)
    return prompt + int(trained[-1]) if trained.size else 0


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
