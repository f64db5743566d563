"""What a stage writes down of its steps and evaluations means what it says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import pytest

from llmrl.experience.experience import Experience
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Report, Source, Stage
from llmrl.report.journal import EvaluationEntry, read_journal
from llmrl.report.trackers import Trackers
from llmrl.run.record import Record

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=4),
    report=Report(trackers=(), samples_every_steps=0),
)


class Told(Trackers):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.numbers |= metrics


def test_what_the_report_piles_up_is_the_time_of_the_whole_step(
    tmp_path: Path, make_record: Callable[..., Record], imitated: Experience
) -> None:
    page = (resources.files("llmrl.report") / "page" / "curves.js").read_text()
    (piled,) = re.findall(r"of: \[([^\]]*)\][^}]*piled: true", page)
    record = make_record(STAGE)
    record.scored_ahead(0.01)
    time.sleep(0.05)

    record.stepped(0, [imitated], {"policy/tokens": 2.0}, train_s=0.02)

    (step,) = read_journal(tmp_path / "metrics.jsonl").steps
    parts = [step.metrics[name] for name in re.findall(r"'([^']+)'", piled)]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(step.metrics["time/step"])


def test_trackers_hear_which_weights_were_evaluated(make_record: Callable[..., Record]) -> None:
    record = make_record(STAGE)
    record.trackers = told = Told()

    record.evaluated(
        EvaluationEntry(
            stage="train",
            step=2,
            version=2,
            name="held-out",
            correct=3,
            n=4,
            unjudged=1,
            accuracy=0.75,
            low=0.3,
            high=0.95,
            tokens_mean=5,
        )
    )

    assert told.numbers == {"held-out/accuracy": 0.75, "held-out/unjudged_rate": 0.2, "held-out/version": 2}
