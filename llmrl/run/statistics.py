"""Statistics of an evaluation: pass@k and the 95 % interval of an accuracy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: every interval here is a 95 % one."""


class Interval(NamedTuple):
    """A 95 % interval; both ends lie in [0, 1]."""

    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of ``k`` responses is correct, from ``c`` correct ones among ``n``.

    The unbiased estimator: the share of all subsets of size ``k`` that hold a correct response.

    Raises:
        ValueError: not ``0 <= c <= n`` or not ``1 <= k <= n``.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if not 0 <= c <= n:
        raise ValueError(f"correct responses must lie between 0 and n = {n}, got {c}")
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the {n} responses of a prompt, got {k}")
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


def mean_pass_at_k(correct: NDArray[np.int64], responses: NDArray[np.int64], k: int) -> float:
    """Mean of :func:`pass_at_k` over prompts.

    Args:
        correct: [prompts] correct responses to each prompt.
        responses: [prompts] responses to each prompt.
    """
    _check(correct, responses)
    return math.fsum(
        pass_at_k(n, c, k) for n, c in zip(responses.tolist(), correct.tolist(), strict=True)
    ) / len(correct)


def wilson_interval(successes: float, n: float) -> Interval:
    """The 95 % interval of a share; unlike the normal interval it keeps its coverage near 0 and 1.

    Args:
        successes: number of successes; may be a fraction, as an effective count is.
        n: number of independent trials, effective ones included.
    Raises:
        ValueError: no trials, or more successes than trials.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and a positive n, got {successes} of {n}")
    share, square = successes / n, Z * Z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    # At 0 and n one end is exact; the sum would miss it by a rounding error.
    return Interval(
        low=0.0 if successes == 0 else max(0.0, centre - half),
        high=1.0 if successes == n else min(1.0, centre + half),
    )


def accuracy_interval(correct: NDArray[np.int64], responses: NDArray[np.int64]) -> Interval:
    """The 95 % interval of an accuracy when a prompt is answered several times.

    Responses to one prompt resemble each other, so counting all of them as independent makes the
    interval too narrow. This is Wilson's interval with the effective number of responses: the number
    of independent ones whose share would vary as much as the accuracy does between prompts (variance
    of the ratio estimator, clustered by prompt). It never counts fewer than the prompts nor more than
    the responses, and with one response per prompt it is Wilson's interval exactly.

    Args:
        correct: [prompts] correct responses to each prompt.
        responses: [prompts] responses to each prompt.
    Source: Kish 1965, "Survey Sampling", chapter 8.2, for the effective sample size; Dean and Pagano
        2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    _check(correct, responses)
    total = int(responses.sum())
    share = float(correct.sum()) / total
    if share in (0.0, 1.0):
        # Nothing varies, so nothing shows how alike the responses to a prompt are: assume they are equal.
        effective = float(len(correct))
    else:
        variance = float(np.square(correct - share * responses).sum()) / total**2
        effective = share * (1 - share) / variance if variance > 0 else math.inf
    effective = min(max(effective, float(len(correct))), float(total))
    return wilson_interval(share * effective, effective)


def _check(correct: NDArray[np.int64], responses: NDArray[np.int64]) -> None:
    if correct.shape != responses.shape or correct.ndim != 1 or not len(correct):
        raise ValueError(f"one count per prompt is needed, got shapes {correct.shape} and {responses.shape}")
    if (responses < 1).any() or (correct < 0).any() or (correct > responses).any():
        raise ValueError("every prompt needs a response, and no more correct responses than responses")
