"""Verdicts per second of the sandbox on HumanEval, and what a verdict costs beyond the code that it runs.

    .venv/bin/python -m tests.speed.sandbox [--processes 2] [--rounds 2] [--isolation kernel]

Ends with 1 below 20 verdicts a second, or if the 99th percentile of the overhead is 100 ms or more. Overhead
is the time from a verdict's start to its end for a function and an assertion that take none themselves.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrl.rewards import Sample
from llmrl.rewards.kinds.code import Code

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
LEAST_PER_SECOND, MOST_OVERHEAD_S = 20.0, 0.1
TRIVIAL = {"test_list": ["assert f(1) == 1"], "code": "def f(x): return x"}
DEADLINE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one process measured."""

    verdicts: list[float]
    """Seconds of each, canonical and broken bodies in turn."""
    trivial: list[float]
    """Seconds of each."""
    busy: float
    """CPU seconds of all verdicts, of this process and all that it started."""


def judged(code: Code, row: dict[str, Any], response: str, expected: float) -> float:
    """Seconds of one verdict, which must be the expected one."""
    sample = Sample(prompt="", response=response, answer=json.dumps(row), tokens=1, finished=True)
    start = time.perf_counter()
    score = code(sample)
    seconds = time.perf_counter() - start
    if score.value != expected:
        raise SystemExit(f"{row.get('task_id', 'trivial')}: {score}, expected {expected}")
    return seconds


def measure(isolation: str, rounds: int) -> Timing:
    """HumanEval through one sandbox, one verdict after the other."""
    with gzip.open(DATA, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    code = Code(isolation="kernel" if isolation == "kernel" else "process", seconds=30.0)
    code.warm_up()
    verdicts: list[float] = []
    for row in rows * rounds:
        verdicts.append(judged(code, row, row["canonical_solution"], 1.0))
        verdicts.append(judged(code, row, "    return None\n", 0.0))
    trivial = [judged(code, TRIVIAL, TRIVIAL["code"], 1.0) for _ in range(300)]  # type: ignore[arg-type]
    code.close()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Timing(
        verdicts=verdicts, trivial=trivial, busy=sum(each.ru_utime + each.ru_stime for each in used)
    )


def side_by_side(arguments: Sequence[str], processes: int) -> list[Timing]:
    """The same in several processes at once, as a scorer has them."""
    command = [sys.executable, "-m", "tests.speed.sandbox", *arguments, "--alone"]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return [Timing(**json.loads(process.communicate(timeout=DEADLINE_S)[0])) for process in running]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--isolation", choices=["kernel", "process"], default="kernel")
    parser.add_argument("--alone", action="store_true", help="measure in this process and print JSON")
    options = parser.parse_args()
    if options.alone:
        timing = measure(options.isolation, options.rounds)
        sys.stdout.write(json.dumps(asdict(timing)))
        return 0
    arguments = ["--rounds", str(options.rounds), "--isolation", options.isolation]
    timings = side_by_side(arguments, options.processes)
    rate = sum(len(timing.verdicts) / sum(timing.verdicts) for timing in timings)
    trivial = np.concatenate([timing.trivial for timing in timings])
    judged_in_all = sum(len(timing.verdicts + timing.trivial) for timing in timings)
    cost = sum(timing.busy for timing in timings) / judged_in_all
    half, most = np.percentile(trivial, [50, 99])
    load = ", ".join(f"{minutes:.1f}" for minutes in os.getloadavg())
    sys.stdout.write(
        f"isolation '{options.isolation}', {options.processes} processes, "
        f"{os.cpu_count()} cores, load {load}\n"
        f"{rate:.0f} HumanEval verdicts per second (at least {LEAST_PER_SECOND:.0f}), "
        f"{cost * 1000:.0f} ms of CPU each, all of them right\n"
        f"overhead of a verdict: median {half * 1000:.1f} ms, 99th percentile {most * 1000:.1f} ms "
        f"(below {MOST_OVERHEAD_S * 1000:.0f})\n"
    )
    return int(rate < LEAST_PER_SECOND or most >= MOST_OVERHEAD_S)


if __name__ == "__main__":
    sys.exit(main())
