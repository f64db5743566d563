"""The plan's formulas against steps that others have published, in one table.

    .venv/bin/python -m tests.speed.published           the table of docs/plan.md
    .venv/bin/python -m tests.speed.published --fit     one efficiency for each phase, fitted to all rows

Nothing is fitted to a row alone. What ranks tell each other is inside the fitted efficiency of training,
because the rows train with other parallelism than ours; weights go over the network at its efficiency.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrl.plan.architecture import architecture_of
from llmrl.plan.hardware import Efficiency, find_machines, read_efficiency
from llmrl.plan.lengths import assumed
from llmrl.plan.memory import engine_needs, kv_cache, slots
from llmrl.plan.pace import pace_of
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.rollout import generation_of
from llmrl.plan.sync import swap_of
from llmrl.plan.training import training_of
from llmrl.plan.workload import Workload

DATA = Path(__file__).with_name("published.toml")
PROMPT, CV, WITHIN = 150.0, 0.6, 0.35
FITTED = ("read", "sequence_us", "train", "experts")
MOST = {"read": 0.85, "train": 0.5}
"""What nobody reaches more of, so that the fit does not either."""
SAMPLE_MS = 9.6
"""What their controllers pay for each sample of a step, fitted to all rows together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One published step and what the plan says of it."""

    source: str
    what: str
    machines: str
    published: float
    predicted: float
    parts: str
    derived: bool
    """Whether the lengths are derived from the row's own training time, not published."""

    @property
    def ratio(self) -> float:
        return self.predicted / self.published

    @property
    def holds(self) -> bool:
        return abs(self.ratio - 1) <= WITHIN

    @property
    def verdict(self) -> str:
        return ("ok" if self.holds else "misses") + (" (1)" if self.derived else "")


def compare(reached: Efficiency | None = None, *, sample_ms: float = SAMPLE_MS) -> list[Compared]:
    """Every row, planned with one set of efficiencies."""
    data = tomllib.loads(DATA.read_text("utf-8"))
    rows = ({"sample_ms": sample_ms} | data["systems"][row["system"]] | row for row in data["rows"])
    return [_compared(data["models"], row, reached) for row in rows]


def _compared(models: Mapping[str, Any], row: Mapping[str, Any], reached: Efficiency | None) -> Compared:
    machines = find_machines(row["gpus"], nodes=row.get("nodes", 1), default=1)
    place = _placement(row, machines.devices)
    rates = estimated(machines.device, reached or read_efficiency(machines.device), dtype="bfloat16")
    work = _workload(models[row["model"]], row)
    engine = engine_needs(work, place, machines, context=row["cap"])
    held = slots(kv_cache(engine), work, place).value
    generation = generation_of(work, place, machines, rates, slots=held)
    training = training_of(work, place, machines, rates)
    train_s = training.seconds - training.talk.value + work.samples * row["sample_ms"] / 1e3
    # Their reference is no second model in every rank, as llmrl's is.
    swap = swap_of(replace(work, scores_reference=False), place, rates, gpu=True).value
    sync = work.width * work.architecture.parameters / rates.network
    pace = pace_of(generation, training_s=train_s + swap, sync_s=sync, lag=place.lag)
    spent = generation.alone_s if place.shared else generation.flowing_s
    return Compared(
        source=row["source"],
        what=row["what"],
        machines=str(machines),
        published=row["step"],
        predicted=pace.step.value,
        parts=f"{spent:.0f} + {train_s:.0f} + {swap + sync:.0f}",
        derived=row.get("lengths_derived", False),
    )


def _placement(row: Mapping[str, Any], devices: int) -> Placement:
    width, shared = row.get("width", 1), row.get("shared", False)
    engines = devices // width if shared else row["engines"]
    return Placement(
        engines=engines,
        tensor_parallel=width,
        ranks=devices if shared else devices - engines * width,
        zero_stage=3 if shared else 1,  # colocated states are sharded in full
        lag=row.get("lag", 0),
        max_sequences=256,
        tokens_per_microbatch=row["cap"],
        recomputes=row.get("recomputes", False),
        offload="none",
        gpu_share=0.6 if shared else 0.8,
        kv_cache_mib=None,
        shared=shared,
    )


def _workload(sizes: Mapping[str, Any], row: Mapping[str, Any]) -> Workload:
    lengths = assumed(row["tokens"] - PROMPT, cv=CV, cap=row["cap"] - int(PROMPT))
    return Workload(
        architecture=architecture_of(sizes, where=row["what"]),
        dtype="bfloat16",
        samples=row["samples"],
        per_prompt=row["per_prompt"],
        prompt_tokens=PROMPT,
        lengths=lengths,
        longest=lengths.longest_of(row["samples"]),
        generated=row["samples"],
        updates=row.get("updates", 1),
        scores_old=row.get("old", True),
        scores_reference=row.get("reference", False),
        recomputes=row.get("recomputes", False),
    )


def error(rows: list[Compared]) -> float:
    """Mean squared logarithm of the ratios, where lengths are published."""
    return statistics.fmean(math.log(row.ratio) ** 2 for row in rows if not row.derived)


def fit(start: Efficiency) -> tuple[Efficiency, float]:
    """Efficiencies of ``FITTED``, and milliseconds a sample, that fit all rows best: coordinate descent."""
    best, each, least = start, 5.0, error(compare(start, sample_ms=5.0))
    for step in (0.3, 0.1, 0.03, 0.01):
        for _ in range(10):
            before = least
            for tried, tried_ms in _steps(best, each, step):
                if (found := error(compare(tried, sample_ms=tried_ms))) < least:
                    best, each, least = tried, tried_ms, found
            if least == before:
                break
    return best, each


def _steps(best: Efficiency, each: float, step: float) -> Iterator[tuple[Efficiency, float]]:
    for factor in (1 - step, 1 / (1 - step)):
        yield best, each * factor
        for name in FITTED:
            value = min(MOST.get(name, math.inf), getattr(best, name) * factor)
            tried = replace(best, **{name: value})
            yield (replace(tried, score=value) if name == "train" else tried), each


def table(rows: list[Compared]) -> str:
    """Markdown."""
    head = ["| who | what | GPUs | published s | plan s (gen + train + sync) | plan / published | |"]
    head += ["|---|---|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| {row.source} | {row.what} | {row.machines} | {row.published:.0f} | {row.predicted:.0f} "
            f"({row.parts}) | {row.ratio:.2f} | {row.verdict} |"
            for row in rows
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print the efficiencies that fit all rows best")
    options = parser.parse_args()
    reached, each = None, SAMPLE_MS
    if options.fit:
        reached, each = fit(read_efficiency(find_machines("H100", nodes=1, default=1).device))
        found = {name: getattr(reached, name) for name in FITTED} | {"SAMPLE_MS": each}
        sys.stdout.write("".join(f"{name} = {value:.3g}\n" for name, value in found.items()))
    rows = compare(reached, sample_ms=each)
    said = [row for row in rows if not row.derived]
    ratios = np.array([row.ratio for row in said])
    sys.stdout.write(
        f"{table(rows)}\n\nOf the {len(said)} rows whose lengths are published "
        f"{sum(row.holds for row in said)} are within {WITHIN:.0%}; "
        f"median ratio {np.median(ratios):.2f}, mean error {np.abs(ratios - 1).mean():.0%}.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
