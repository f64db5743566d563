"""How much of the shorter phase an asynchronous run hides: its step over the longer phase alone.

    .venv/bin/python -m tests.speed.table overlap

Two whole runs of ``llmrl train`` with real processes make a pair: one with ``max_lag = 0``, whose phases
take turns and so are measured alone, and one with ``max_lag = 1`` on the same model, prompts and lengths.
Wall time is the subject here, so it wants an idle machine with two cores; sizes are such that the phases
take about as long as each other, where overlap is hardest.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrl.report.journal import read_journal
from tests.speed.compare import Row
from tests.speed.model import build_model
from tests.speed.rollouts import silence_the_end

DEADLINE_S = 600
STEPS, WARM_UP = 14, 4
"""Steps of a run, and how many of them at its beginning do not count."""

RECIPE = """
[run]
name = "overlap"
[model]
path = "{model}"
context_tokens = 512
[prompts]
sources = [{{ dataset = "{rows}" }}]
per_step = 4
max_tokens = 16
[rollouts]
per_prompt = 4
max_tokens = 96
[engines]
max_sequences = 32
[rewards.short]
kind = "length"
options = {{ max_tokens = 96 }}
[report]
trackers = []
samples_every_steps = 0
[objective]
name = "grpo"
[optimizer]
steps = {steps}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Median seconds of a run's steps."""

    step: float
    generate: float
    """Waiting for groups, without the time that weights took to arrive."""
    train: float


def problems(folder: Path) -> Path:
    """Prompts of twelve digits."""
    path = folder / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "{10**11 + row}"}}\n' for row in range(64)), encoding="utf-8")
    return path


def phases(recipe: Path, folder: Path, *, max_lag: int, number: int) -> Phases:
    """What a run of its own measures."""
    name = f"lag-{max_lag}-{number}"
    options = [f"engines.max_lag={max_lag}", f"run.folder={folder}", f"run.name={name}"]
    command = [sys.executable, "-m", "llmrl.cli", "train", str(recipe), *options]
    subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=sys.stderr)
    steps = [one.metrics for one in read_journal(folder / name / "0-train" / "metrics.jsonl").steps][WARM_UP:]
    return Phases(
        step=statistics.median(one["time/step"] for one in steps),
        generate=statistics.median(one["time/wait"] - one["time/sync"] for one in steps),
        train=statistics.median(one["time/train"] for one in steps),
    )


def rows(pairs: int) -> list[Row]:
    """The asynchronous step over the longer phase, and over both."""
    with TemporaryDirectory(prefix="llmrl-speed-") as scratch:
        folder = Path(scratch)
        silence_the_end(model := build_model(folder))
        recipe = folder / "overlap.toml"
        recipe.write_text(RECIPE.format(model=model, rows=problems(folder), steps=STEPS), encoding="utf-8")
        found: list[tuple[Phases, Phases]] = []
        for number in range(pairs):
            done = {
                lag: phases(recipe, folder, max_lag=lag, number=number)
                for lag in ((0, 1) if number % 2 == 0 else (1, 0))
            }
            found.append((done[0], done[1]))
    alone = found[0][0]
    sizes = f"generation {alone.generate:.2f} s, training {alone.train:.2f} s"
    return [
        Row(
            what=f"asynchronous step over the longer phase alone ({sizes})",
            ratios=[both.step / max(one.generate, one.train) for one, both in found],
            target=1.10,
            at_most=True,
        ),
        Row(
            what="asynchronous step over both phases in turn",
            ratios=[both.step / (one.generate + one.train) for one, both in found],
            target=0.58,
            at_most=True,
        ),
    ]
