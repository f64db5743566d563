"""What a run's processes still hold after each step: memory that grows with the number of steps is a leak.

    .venv/bin/python -m tests.speed.table footprint

A real run of ``llmrl train`` with a tiny model and the torch engine. While it lasts, the private memory of
its controller, its policy rank and its engine is read, and what the object store has touched; a line through
the readings, without the first steps, says how much each grows. Readings of neighbouring moments are alike,
which the confidence interval takes into account.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray

from llmrl.report.journal import read_journal
from tests.speed.compare import Row, WrongResultError

STEPS, WARM_UP = 1000, 500
"""Steps of the run, and how many of them may fill pools, and settle what allocators keep in pieces."""
MIB_PER_100_STEPS = 0.5
DEADLINE_S, PAUSE_S = 3600, 0.5

TITLES = {"ray::_Host": "policy rank", "ray::_AsyncHost": "engine"}
"""How Ray names the processes of our two kinds of actors."""

RECIPE = """
[run]
name = "footprint"
folder = "{folder}"
[model]
characters = "0123456789+=,#"
context_tokens = 64
[model.config]
model_type = "qwen3"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
[prompts]
sources = [{{ task = "digit_sum", rows = 512 }}]
per_step = 4
max_tokens = 8
[rollouts]
per_prompt = 4
max_tokens = 16
[engines]
kind = "torch"
[rewards.short]
kind = "length"
options = {{ max_tokens = 16 }}
[report]
trackers = []
[objective]
name = "grpo"
[optimizer]
steps = {steps}
"""


def private_mib(process: psutil.Process) -> float:
    """Memory that is this process's alone."""
    used = process.memory_info()
    return (used.rss - used.shared) / 2**20


def readings(run: psutil.Process) -> dict[str, float]:
    """MiB of each part of a run, as far as it has them yet."""
    found = {"controller": private_mib(run)}
    for process in run.children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            for begin, part in TITLES.items():
                if title.startswith(begin):
                    found[part] = private_mib(process)
            if process.name() == "raylet":
                found["object store"] = process.memory_info().shared / 2**20
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def watched(folder: Path) -> tuple[NDArray[np.float64], Mapping[str, NDArray[np.float64]]]:
    """[N] steps done at each moment, and [N] MiB of each part.

    Raises:
        WrongResultError: the run ended before its time.
    """
    recipe = folder / "footprint.toml"
    recipe.write_text(RECIPE.format(folder=folder, steps=STEPS), encoding="utf-8")
    journal = folder / "footprint" / "0-train" / "metrics.jsonl"
    steps: list[int] = []
    rows: list[dict[str, float]] = []
    run = psutil.Popen([sys.executable, "-m", "llmrl.cli", "train", str(recipe)], stdout=sys.stderr)
    deadline = time.monotonic() + DEADLINE_S
    try:
        while run.poll() is None and time.monotonic() < deadline:
            if journal.exists() and len(done := read_journal(journal).steps) >= WARM_UP:
                steps.append(len(done))
                rows.append(readings(run))
            time.sleep(PAUSE_S)
    finally:
        if run.poll() is None:
            run.terminate()
        code = run.wait(60)
    whole = [(at, row) for at, row in zip(steps, rows, strict=True) if len(row) == 2 + len(TITLES)]
    if code or not whole or whole[-1][0] < STEPS * 0.9:
        raise WrongResultError(f"footprint: the run ended with {code} after {steps[-1:]} steps.")
    listed = {part: np.array([row[part] for _, row in whole]) for part in whole[0][1]}
    return np.array([at for at, _ in whole], np.float64), listed


def growth(steps: NDArray[np.float64], mib: NDArray[np.float64]) -> tuple[float, float]:
    """MiB per 100 steps, and half the width of its 95 % interval."""
    x = steps - steps.mean()
    slope = float((x * mib).sum() / np.square(x).sum())
    left = mib - mib.mean() - slope * x
    spread = float(np.sqrt(np.square(left).sum() / (len(x) - 2) / np.square(x).sum()))
    alike = float((left[1:] * left[:-1]).sum() / max(np.square(left).sum(), 1e-12))
    wider = np.sqrt((1 + alike) / max(1 - alike, 0.01))
    return 100 * slope, 100 * 1.96 * spread * max(1.0, float(wider))


def rows(_pairs: int) -> list[Row]:
    """The growth of each part of one long run.

    Raises:
        WrongResultError: the run ended before its time.
    """
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        steps, parts = watched(Path(folder))
    made: list[Row] = []
    for part, mib in parts.items():
        slope, half = growth(steps, mib)
        what = f"{part}, MiB per 100 of {STEPS - WARM_UP} steps (+- {half:.2f}; {mib[-1]:.0f} MiB at the end)"
        made.append(Row(what=what, ratios=[slope], target=MIB_PER_100_STEPS, at_most=True))
    return made
