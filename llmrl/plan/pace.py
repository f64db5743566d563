"""How long a step takes where generation and training overlap as far as the lag allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrl.plan.figure import Figure
from llmrl.plan.placement import Update
from llmrl.plan.rollout import Generation

Binds = Literal["generation", "training", "lag", "the sum of both"]
"""``lag``: neither side is busy all the time, because no more groups may be under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The steady state of a run."""

    step: Figure
    """Seconds from one step to the next."""
    generating: Figure | None
    """Seconds that a step's responses take an engine beside others, with what a sync does to them; None where
    nothing is generated beside others."""
    binds: Binds
    enough_lag: int
    """Smallest ``engines.max_lag`` with which no side waits for want of lag."""
    mean_lag: float
    """Versions by which a trained token is behind, on average."""


def pace_of(
    generation: Generation | None,
    *,
    training_s: float,
    sync_s: float,
    lag: int,
    update: Update = "keep",
    contention: float = 1.0,
) -> Pace:
    """The pace with ``lag + 1`` steps' worth of groups under way, from draw to served weights.

    One step's worth is drawn whenever weights are served. The last step that may train on it is waited for if
    need be, so its longest response, its training and its sync together take at most ``lag + 1`` steps.

    Args:
        generation: None where the dataset has the responses.
        training_s: of one step, everything that the ranks do.
        sync_s: until the engines serve the new weights.
        lag: ``engines.max_lag``.
        update: ``engines.update``.
        contention: times as long that each side takes while the other one works.
    """
    after = training_s + sync_s
    if generation is None:
        return _pace("training", after, "training", {"training": training_s}, lag=0, mean=0.0)
    generating = _generating(generation, training_s, sync_s, update)
    busiest = _busiest(generating.value, training_s, contention)
    enough = _enough(generation, after, busiest)
    if lag == 0:
        inputs = {"generation": generation.alone_s, "training": training_s, "sync": sync_s}
        seconds = generation.alone_s + after
        return _pace("generation + training + sync", seconds, "the sum of both", inputs, lag=enough, mean=0.0)
    seconds = _settled(generation, after, lag, at_least=busiest)
    busier: Binds = "training" if training_s >= generating.value else "generation"
    binds: Binds = "lag" if seconds > 1.001 * busiest else busier
    inputs = {
        "training": training_s,
        **generating.inputs,
        "longest": generation.latency(seconds),
        "sync": sync_s,
        "lag": float(lag),
    } | ({"k": contention} if contention > 1 else {})
    sides = f"(training, {generating.formula})"
    both = f"max{sides}" + (f" + (k - 1) min{sides}" if contention > 1 else "")
    return _pace(
        f"max({both}, (longest + training + sync) / (lag + 1))",
        seconds,
        binds,
        inputs,
        lag=enough,
        generating=generating,
        mean=_mean_lag(generation, seconds, after, lag, waits=binds == "generation"),
    )


def _pace(
    formula: str,
    seconds: float,
    binds: Binds,
    inputs: dict[str, float],
    *,
    lag: int,
    mean: float,
    generating: Figure | None = None,
) -> Pace:
    step = Figure(value=seconds, unit="s", formula=formula, inputs=inputs)
    return Pace(step=step, generating=generating, binds=binds, enough_lag=lag, mean_lag=mean)


def _generating(generation: Generation, training_s: float, sync_s: float, update: Update) -> Figure:
    """Seconds that a step's responses take an engine, with what a sync does to those under way."""
    alone, flowing = generation.alone_s, generation.flowing_s
    if update == "drain":
        # All of them end before the weights change, so what a step generates has its tail to itself.
        inputs = {"alone": alone, "sync": sync_s}
        return Figure(value=alone + sync_s, unit="s", formula="alone + sync", inputs=inputs)
    if update == "abort":
        again = generation.again_s(max(training_s, flowing))
        inputs = {"flowing": flowing, "again": again}
        return Figure(value=flowing + again, unit="s", formula="flowing + again", inputs=inputs)
    return Figure(value=flowing, unit="s", formula="flowing", inputs={"flowing": flowing})


def _settled(generation: Generation, after: float, lag: int, *, at_least: float) -> float:
    """The period that agrees with the latency it leads to: more time makes smaller, faster batches."""
    low, high = at_least, max(at_least, (generation.latency(at_least) + after) / (lag + 1))
    for _ in range(60):
        middle = (low + high) / 2
        fits = (generation.latency(middle) + after) / (lag + 1) <= middle
        low, high = (low, middle) if fits else (middle, high)
    return high


def _busiest(generating_s: float, training_s: float, contention: float) -> float:
    """Seconds of both sides at once: as long as the shorter one goes on, each slows the other down."""
    sides = training_s, generating_s
    return max(sides) + (contention - 1) * min(sides)


def _enough(generation: Generation, after: float, fastest: float) -> int:
    return max(1, int(np.ceil((generation.latency(fastest) + after) / fastest - 1 - 1e-6)))


def _mean_lag(generation: Generation, period: float, after: float, lag: int, *, waits: bool) -> float:
    """What is sampled right after its draw is ``lag`` behind; every version before it makes that less."""
    token = generation.step_s(generation.sequences_at(period))
    spare = (lag + 1) * period - after - generation.latency(period)
    queued = max(0.0, spare) if waits else 0.0
    reached = np.linspace(0, generation.square / generation.mean, 65)[:-1] * token
    return float(np.clip(lag - (queued + reached) // period, 0, None).mean())
