"""How long responses are: what the time of generation depends on most, and what nobody knows beforehand."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, RecipeError, shown

QUANTILES = 2048
"""Points of an assumed distribution."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lengths:
    """Responses in tokens, ascending: an assumed distribution or one that was measured."""

    sorted: NDArray[np.float64]
    mean: float
    """r."""
    square: float
    """r2, the mean square."""
    said: str
    """Where they are from, for the output."""

    @classmethod
    def of(cls, values: NDArray[np.float64], said: str) -> Lengths:
        """Every value is as likely as any other."""
        ascending = np.sort(values)
        mean, square = float(ascending.mean()), float((ascending**2).mean())
        return cls(sorted=ascending, mean=mean, square=square, said=said)

    def longest_of(self, samples: float) -> float:
        """Expected maximum of ``samples`` independent responses, in tokens."""
        below = np.arange(self.sorted.size + 1) / self.sorted.size
        return float((np.diff(below**samples) * self.sorted).sum())

    def draw(self, count: int, *, seed: int) -> NDArray[np.int64]:
        """[count] lengths at random, for a simulation."""
        picked = np.random.default_rng(seed).integers(0, self.sorted.size, count)
        return np.maximum(1, self.sorted[picked].round()).astype(np.int64)


def assumed(mean: float, *, cv: float, cap: int, said: str = "") -> Lengths:
    """Lognormal lengths, cut at the budget, whose mean after the cut is ``mean``.

    Args:
        mean: tokens of a response.
        cv: standard deviation over mean before the cut; 0 makes all alike.
        cap: budget of a response in tokens.
        said: where the assumption is from.

    Raises:
        RecipeError: a mean that is not between 1 and the budget, or a negative spread.
    """
    if not 1 <= mean <= cap:
        raise RecipeError(f"--mean: expected tokens between 1 and rollouts.max_tokens = {cap}, got {mean:g}.")
    if not 0 <= cv <= 10:
        raise RecipeError(f"--cv: expected a spread between 0 and 10, got {cv:g}.")
    sigma = math.sqrt(math.log1p(cv**2))
    normal = NormalDist()
    shape = np.exp([sigma * normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    low, high = 0.0, 1e3 * cap
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * shape, cap).mean() < mean else (low, middle)
    return Lengths.of(np.minimum(high * shape, cap), said)


def read_lengths(file: Path, *, cap: int) -> Lengths:
    """Lengths that were measured: numbers separated by blanks, commas or new lines, or one JSON array.

    Raises:
        DataError: no numbers, or some that no response of this recipe can have.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
        numbers = json.loads(text) if text.startswith("[") else text.replace(",", " ").split()
        found = np.sort(np.array(numbers, dtype=np.float64).reshape(-1))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"--lengths: {shown(str(file))} holds no list of numbers: {error}.") from error
    if not found.size or found[0] < 1 or found[-1] > cap or not np.isfinite(found).all():
        raise DataError(
            f"--lengths: {shown(str(file))}: expected tokens between 1 and rollouts.max_tokens = {cap}, "
            f"got {f'{found[0]:g} to {found[-1]:g}' if found.size else 'nothing'}."
        )
    return Lengths.of(found, f"{found.size:,} lengths of {file}")
