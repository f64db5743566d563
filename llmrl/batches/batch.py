"""Rows of response tokens as an objective sees them; every column is exactly 0 outside the mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenScores:
    """Logprobs and entropies of the sampled tokens under one set of weights."""

    logp: Tensor
    """[B, T] logprobs of the sampled tokens under softmax(logits / temperature), in nats."""
    entropy: Tensor | None = None
    """[B, T] entropies of the same distribution, in nats; None where nothing reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sizes of one whole update over all ranks and micro-batches: the only denominators."""

    tokens: int
    """Number of trained tokens."""
    responses: int
    """Number of responses with at least one trained token."""
    pairs: int = 0
    """Number of preference pairs."""
    budget: int = 1
    """Most tokens that a response may have: ``rollouts.max_tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some rows of a step. B rows, T response tokens, right-padded."""

    mask: Tensor
    """[B, T] bool, True on trained tokens; made from lengths and turns, never from token values."""
    advantage: Tensor
    """[B, T] credit, with the correction for engine and trainer."""
    reward: Tensor
    """[B] total reward of the response; 0 where nothing judged it."""
    group: Tensor
    """[B] int64 number that rows with the same prompt share."""
    turn: Tensor
    """[B, T] int64 index of the policy's turn; 0 outside the mask."""
    pairs: Tensor
    """[P, 2] int64 rows: the preferred response, then the other; a row may be in several pairs, or none."""
    opponent: Tensor
    """[B] bool, True where the opponent wrote the response, not the policy."""
    sampled: TokenScores
    """Scores that the engine reported while sampling."""
    old: TokenScores
    """The policy's scores at the start of this step."""
    reference: TokenScores | None = None
    """The frozen model's scores, without entropies; present if the objective reads them."""
    credit: Tensor | None = None
    """[B, T] ``advantage`` without the correction, to rank tokens by; None if no correction was applied."""
    noise: Tensor | None = None
    """[B, T] uniform in [0, 1), from run, step, prompt, sample and position alone; present if read."""
