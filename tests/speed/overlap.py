"""How much of the shorter phase an asynchronous run hides: its step over the longer phase alone.

    .venv/bin/python -m tests.speed.table overlap

Whole runs of ``llmrl train`` with real processes, on the same model, prompts and lengths, are compared: one
with ``max_lag = 0``, whose phases take turns and so are measured alone, and two that overlap. With
``max_lag = 1`` a step that is late holds up the next one; with 2 there is one to spare.
Wall time is the subject here, so it wants an idle machine with two cores. Overlap is hardest where the phases
take as long as each other: two trials find the length of the prompts, which training reads for every response
and generation only once, at which they do.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrl.report.journal import read_journal
from tests.speed.compare import Row, WrongResultError
from tests.speed.model import build_model
from tests.speed.rollouts import silence_the_end

DEADLINE_S = 600
STEPS, WARM_UP = 18, 8
"""Steps of a run, and how many of them at its beginning do not count: a virtual machine that gives idle
memory back to its host is slow until a run has its pages."""
LAGS = (1, 2)
SHORT, LONG = 16, 128
"""Tokens of the trials' prompts; between them, or near, the phases must be equally long."""
LONGEST = 256
PROMPTS = 64

RECIPE = """
[run]
name = "overlap"
[model]
path = "{model}"
context_tokens = 512
[prompts]
sources = [{{ dataset = "{rows}" }}]
per_step = 4
max_tokens = 256
[rollouts]
per_prompt = 3
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
    """Mean seconds of a run's steps, which may well be longer and shorter in turns."""

    step: float
    generate: float
    """Waiting for groups, without the time that weights took to arrive."""
    train: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Where runs of one model go on."""

    folder: Path
    model: Path

    def recipe(self, prompt_tokens: int) -> Path:
        """For prompts of so many digits."""
        drawn, named = random.Random(0), self.folder / f"digits-{prompt_tokens}"
        lines = ("".join(drawn.choices("0123456789", k=prompt_tokens)) for _ in range(PROMPTS))
        rows, recipe = named.with_suffix(".jsonl"), named.with_suffix(".toml")
        rows.write_text("".join(f'{{"prompt": "{line}"}}\n' for line in lines), encoding="utf-8")
        recipe.write_text(RECIPE.format(model=self.model, rows=rows, steps=STEPS), encoding="utf-8")
        return recipe

    def balanced(self) -> int:
        """Tokens of a prompt at which a step generates for as long as it trains."""
        short, long = (self.phases(tokens, max_lag=0, name=f"trial-{tokens}") for tokens in (SHORT, LONG))
        ahead = [one.generate - one.train for one in (short, long)]
        found = SHORT + round((LONG - SHORT) * ahead[0] / (ahead[0] - ahead[1]))
        if not 0 < found < LONGEST:
            raise WrongResultError(f"no length of prompts makes the phases equal: {short}, {long}")
        return found

    def phases(self, prompt_tokens: int, *, max_lag: int, name: str) -> Phases:
        """What a run of its own measures."""
        options = [f"engines.max_lag={max_lag}", f"run.folder={self.folder}", f"run.name={name}"]
        command = [sys.executable, "-m", "llmrl.cli", "train", str(self.recipe(prompt_tokens)), *options]
        subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=sys.stderr)
        journal = read_journal(self.folder / name / "0-train" / "metrics.jsonl")
        steps = [one.metrics for one in journal.steps][WARM_UP:]
        return Phases(
            step=statistics.fmean(one["time/step"] for one in steps),
            generate=statistics.fmean(one["time/wait"] - one["time/sync"] for one in steps),
            train=statistics.fmean(one["time/train"] for one in steps),
        )


def rows(pairs: int) -> list[Row]:
    """For every lag, the asynchronous step over the longer phase, and over both."""
    with TemporaryDirectory(prefix="llmrl-speed-") as scratch:
        silence_the_end(model := build_model(Path(scratch)))
        runs = Runs(folder=Path(scratch), model=model)
        tokens = runs.balanced()
        found: list[dict[int, Phases]] = []
        for number in range(pairs):
            lags = (0, *LAGS) if number % 2 == 0 else (*reversed(LAGS), 0)
            found.append({lag: runs.phases(tokens, max_lag=lag, name=f"lag-{lag}-{number}") for lag in lags})
    alone = [one[0] for one in found]
    generate, train = (
        statistics.median(getattr(one, name) for one in alone) for name in ("generate", "train")
    )
    sizes = f"generation {generate:.2f} s, training {train:.2f} s"
    return [row for lag in LAGS for row in _rows_at(lag, [one[lag].step for one in found], alone, sizes)]


def _rows_at(lag: int, steps: list[float], alone: list[Phases], sizes: str) -> list[Row]:
    return [
        Row(
            what=f"asynchronous step over the longer phase alone, max_lag = {lag} ({sizes})",
            ratios=[step / max(one.generate, one.train) for step, one in zip(steps, alone, strict=True)],
            target=1.10,
            at_most=True,
        ),
        Row(
            what=f"asynchronous step over both phases in turn, max_lag = {lag}",
            ratios=[step / (one.generate + one.train) for step, one in zip(steps, alone, strict=True)],
            target=0.58,
            at_most=True,
        ),
    ]
