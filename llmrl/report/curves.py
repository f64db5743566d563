"""Curves small enough to draw: a stage's metrics, averaged over neighbouring steps where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.report.journal import StepEntry, number

POINTS = 500
"""Most points of a curve over the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric; lists have one value per point, None where no step of the point has a finite value."""

    mean: list[float | None]
    low: list[float | None] | None = None
    """Smallest value of the steps behind each point; None where every point is one step."""
    high: list[float | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """All metrics of one stage over the same points."""

    first: list[int]
    """The first step behind each point."""
    last: list[int]
    metrics: dict[str, Curve]


def curves(entries: Sequence[StepEntry], *, points: int = POINTS) -> Curves:
    """Average the metrics of a stage's steps into at most ``points`` points; no step is left out."""
    count = min(len(entries), points)
    starts = np.linspace(0, len(entries), count, endpoint=False).astype(np.int64)
    steps = np.array([entry.step for entry in entries], dtype=np.int64)
    names = sorted({name for entry in entries for name in entry.metrics})
    return Curves(
        first=steps[starts].tolist(),
        last=steps[np.append(starts[1:], len(entries)) - 1].tolist() if count else [],
        metrics={name: _curve(_column(entries, name), starts) for name in names},
    )


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` points over stages of these many steps; short stages keep every step."""
    granted = [0] * len(sizes)
    rest = total
    for done, stage in enumerate(sorted(range(len(sizes)), key=lambda stage: sizes[stage])):
        granted[stage] = min(sizes[stage], rest // (len(sizes) - done))
        rest -= granted[stage]
    return granted


def _column(entries: Sequence[StepEntry], name: str) -> NDArray[np.float64]:
    return np.array([entry.metrics.get(name, np.nan) for entry in entries], dtype=np.float64)


def _curve(values: NDArray[np.float64], starts: NDArray[np.int64]) -> Curve:
    if len(starts) == len(values):
        return Curve(mean=_short(values))
    known = np.isfinite(values)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    return Curve(
        mean=_short(np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)),
        low=_short(np.fmin.reduceat(values, starts)),
        high=_short(np.fmax.reduceat(values, starts)),
    )


def _short(values: NDArray[np.float64]) -> list[float | None]:
    """Round to five digits, more than a curve shows."""
    return [number(float(f"{value:.5g}")) for value in values.tolist()]
