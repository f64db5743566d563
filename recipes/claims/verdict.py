"""What the runs of a claim amount to: paired differences over seeds, their interval, and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.claims.claim import Claim
from recipes.claims.run import Result

T_QUANTILES = {
    1: 12.7062,
    2: 4.3027,
    3: 3.1824,
    4: 2.7764,
    5: 2.5706,
    6: 2.4469,
    7: 2.3646,
    8: 2.3060,
    9: 2.2622,
}
"""The 97.5 % quantile of Student's t, by degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An arm less the first arm, seed by seed, in the number that decides."""

    arm: str
    mean: float
    low: float
    """Lower end of the 95 % interval of the mean, from Student's t."""
    high: float
    better: int
    """Seeds on which the arm is better."""
    seeds: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(claim: Claim, results: Sequence[Result], arm: str) -> Difference:
    """The paired difference of one arm, over the seeds on which both arms have the number.

    Raises:
        ValueError: fewer than two seeds have both arms, or more than ten.
    """
    first = next(iter(claim.arms))
    values = {
        (one.arm, one.seed): value for one in results if math.isfinite(value := one.numbers[claim.verdict])
    }
    seeds = sorted(seed for name, seed in values if name == arm and (first, seed) in values)
    if not 2 <= len(seeds) <= len(T_QUANTILES) + 1:
        raise ValueError(f"{claim.name}: expected 2 to {len(T_QUANTILES) + 1} seeds, got {len(seeds)}")
    paired = np.array([values[arm, seed] - values[first, seed] for seed in seeds])
    half = T_QUANTILES[len(seeds) - 1] * float(paired.std(ddof=1)) / math.sqrt(len(seeds))
    mean = float(paired.mean())
    return Difference(
        arm=arm,
        mean=mean,
        low=mean - half,
        high=mean + half,
        better=int(((paired > 0) if claim.better == "more" else (paired < 0)).sum()),
        seeds=len(seeds),
    )


def table(claim: Claim, results: Sequence[Result]) -> str:
    """The means of every number for every arm, and the differences in the one that decides, as Markdown."""
    names = list(results[0].numbers)
    lines = [_row(["arm", *names]), _row(["---"] * (len(names) + 1))]
    for arm in claim.arms:
        of_arm = [one.numbers for one in results if one.arm == arm]
        lines.append(_row([arm, *(_mean([one[name] for one in of_arm]) for name in names)]))
    first, *others = claim.arms
    seeds = sorted({one.seed for one in results})
    lines += ["", _row([claim.verdict, *map(str, seeds), f"less {first}", "95 % interval", "better"])]
    lines.append(_row(["---"] * (len(seeds) + 4)))
    for arm in claim.arms:
        own = {one.seed: one.numbers[claim.verdict] for one in results if one.arm == arm}
        cells = [_number(own[seed]) for seed in seeds]
        lines.append(
            _row([arm, *cells, *(_told(difference(claim, results, arm)) if arm in others else ["", "", ""])])
        )
    return "\n".join(lines)


def _told(one: Difference) -> list[str]:
    return [f"{one.mean:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}", f"{one.better} of {one.seeds}"]


def _mean(values: Sequence[float]) -> str:
    """The mean of the values that there are."""
    known = [value for value in values if math.isfinite(value)]
    return _number(float(np.mean(known)) if known else math.nan)


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
