"""What an objective sees: rows of response tokens, every column exactly 0 outside the mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenScores:
    """What one set of weights thinks of the sampled tokens."""

    logp: Tensor
    """[B, T] nats of softmax(logits / temperature) at the sampled token."""
    entropy: Tensor | None = None
    """[B, T] nats, of the same distribution; None where nothing reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sizes of one whole update over all ranks and micro-batches: the only denominators."""

    tokens: int
    """Trained tokens."""
    responses: int
    """Responses with at least one trained token."""
    pairs: int = 0
    """Preference pairs."""
    budget: int = 1
    """Most tokens that a response may have: ``rollouts.max_tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some rows of a step. B rows, T response tokens, right-padded."""

    mask: Tensor
    """[B, T] bool, True on trained tokens; made from lengths and turns, never from token values."""
    advantage: Tensor
    """[B, T] credit, the correction for engine and trainer included."""
    reward: Tensor
    """[B] what the rewards gave the response in all; 0 where nothing judged it."""
    group: Tensor
    """[B] int64, rows with the same prompt share it."""
    turn: Tensor
    """[B, T] int64 index of the policy's turn; 0 outside the mask."""
    pairs: Tensor
    """[P, 2] int64 rows: the preferred response, then the other; a row may be in several pairs, or none."""
    opponent: Tensor
    """[B] bool, True where the opponent wrote the response, not the policy."""
    sampled: TokenScores
    """As the engine reported them while sampling."""
    old: TokenScores
    """As the policy had them at the start of this step."""
    reference: TokenScores | None = None
    """Under the frozen model, without its entropy; present if the objective reads it."""
    credit: Tensor | None = None
    """[B, T] as ``advantage``, without the correction, to rank tokens by; None where none was applied."""
    noise: Tensor | None = None
    """[B, T] uniform in [0, 1), from run, step, prompt, sample and position alone; present if read."""
