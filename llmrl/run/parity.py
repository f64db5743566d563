"""The parity gate: before the first step, engine and trainer must agree about the same tokens.

A wrong template, temperature, dtype or weight sync does not crash a run, it trains on garbage. The
gate compares logprobs of real responses and, where they differ, says what the difference looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import ParityError

LIMITS = {"float32": (1e-4, 1e-2), "bfloat16": (0.1, 3.0)}
"""Mean and largest absolute difference in nats that rounding explains, by dtype of the engines."""

ROUTED = (0.3, 10.0)
"""The same limits for a bfloat16 mixture of experts, where rounding may route a token differently."""

Logp = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """One response under both sides; arrays of equal length L, in nats."""

    sampled: Logp
    """Logprobs that the engine reported while sampling, at the recipe's temperature."""
    trainer: Logp
    """Logprobs that the policy computes, at the recipe's temperature."""
    trainer_plain: Logp
    """Logprobs that the policy computes, at temperature 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The agreement of the two sides."""

    tokens: int
    mean: float
    """Mean absolute difference in nats."""
    largest: float


def check_parity(
    comparisons: Sequence[Comparison], *, dtype: str, temperature: float, routed: bool = False
) -> Parity:
    """Compare engine and trainer, and refuse to train on disagreement.

    Args:
        comparisons: one for each response.
        dtype: the engines' dtype.
        temperature: the sampling temperature.
        routed: whether the model is a mixture of experts.

    Raises:
        ParityError: the two sides disagree; the message has the difference and its likeliest cause.
    """
    parity = _difference([c.sampled for c in comparisons], [c.trainer for c in comparisons])
    mean_limit, largest_limit = ROUTED if routed and dtype == "bfloat16" else LIMITS[dtype]
    if parity.mean <= mean_limit and parity.largest <= largest_limit:
        return parity
    raise ParityError(
        f"engine and trainer disagree about {parity.tokens} tokens: mean difference {parity.mean:.3g} nats "
        f"(limit {mean_limit:g} for {dtype}), largest {parity.largest:.3g} (limit {largest_limit:g}). "
        f"{_diagnosis(comparisons, mean_limit, temperature)}"
    )


def _difference(one: Sequence[Logp], other: Sequence[Logp]) -> Parity:
    gaps = np.concatenate([np.abs(a.astype(np.float64) - b) for a, b in zip(one, other, strict=True)])
    gaps = np.where(np.isfinite(gaps), gaps, np.inf)
    return Parity(tokens=gaps.size, mean=float(gaps.mean()), largest=float(gaps.max()))


def _diagnosis(comparisons: Sequence[Comparison], limit: float, temperature: float) -> str:
    sampled = [c.sampled for c in comparisons]
    if temperature != 1 and _difference(sampled, [c.trainer_plain for c in comparisons]).mean <= limit:
        return (
            f"They agree at temperature 1 and not at rollouts.temperature = {temperature:g}: "
            "the engine reports raw logprobs; it must be started with processed logprobs."
        )
    longer = [c for c in comparisons if c.sampled.size > 1]
    if (
        longer
        and _difference([c.sampled[1:] for c in longer], [c.trainer[:-1] for c in longer]).mean <= limit
    ):
        return (
            "They agree when shifted by one token: one side scores the token before the one that was sampled."
        )
    bias = np.concatenate([c.sampled - c.trainer for c in comparisons])
    if bias.std() < 0.1 * abs(bias.mean()):
        return (
            f"The engine is off by {bias.mean():+.3g} nats on every token: "
            "it samples from a truncated distribution (top-p, top-k or min-p), which training does not allow."
        )
    if _difference(sampled, [c.trainer for c in comparisons]).mean < 10 * limit:
        return "The difference is small and unsystematic: look at the dtypes of both sides (model.dtype)."
    return (
        "The difference is large and unsystematic: other weights in the engine, or another prompt template."
    )
