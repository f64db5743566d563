"""A journal survives crashes, resumes and numbers that are not finite."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.report.journal import EvaluationEntry, Journal, StepEntry, read_journal


def a_step(step: int, reward: float = 0.5) -> StepEntry:
    metrics = {"reward/mean": reward, "objective/clip_fraction": 0.25}
    return StepEntry(stage="grpo", step=step, version=step, seconds=1.5 * step, metrics=metrics)


EVALUATION = EvaluationEntry(
    stage="grpo", step=0, version=0, name="held-out", correct=211, n=512, unjudged=3,
    accuracy=0.412, low=0.370, high=0.455,
    pass_at_k={1: 0.412, 8: 0.75}, tokens_mean=33.5,
)  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "1-grpo") as journal:
        journal.evaluation(EVALUATION)
        journal.step(a_step(1))

    entries = read_journal(tmp_path / "1-grpo" / "metrics.jsonl")

    assert entries.steps == (a_step(1),)
    assert entries.evaluations == (EVALUATION,)
    assert entries.units["time/step"] == "s"


def test_lines_are_on_disk_before_the_next_call(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.step(a_step(1))

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    journal.close()

    assert json.loads(lines[0]).keys() == {"units"}
    assert json.loads(lines[1]) == {
        "stage": "grpo", "step": 1, "version": 1, "seconds": 1.5,
        "metrics": {"reward/mean": 0.5, "objective/clip_fraction": 0.25},
    }  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_null_on_disk_and_nan_when_read(tmp_path: Path, value: float) -> None:
    with Journal(tmp_path) as journal:
        journal.step(a_step(1, reward=value))

    assert '"reward/mean": null' in journal.path.read_text()
    assert math.isnan(read_journal(journal.path).steps[0].metrics["reward/mean"])


def test_numpy_numbers_are_written_as_numbers(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.step(a_step(1, reward=cast(float, np.float32(0.25))))

    assert read_journal(journal.path).steps[0].metrics["reward/mean"] == 0.25


def test_a_metric_without_a_meaning_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(KeyError, match="reward/meen"):
        journal.step(StepEntry(stage="s", step=1, version=1, seconds=0, metrics={"reward/meen": 1.0}))


def test_a_torn_last_line_is_dropped_on_resume(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.step(a_step(1))
        journal.step(a_step(2))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20])

    with Journal(tmp_path) as journal:
        journal.step(a_step(2))

    assert journal.path.read_bytes() == whole


def test_a_journal_torn_in_its_header_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"uni')

    with Journal(tmp_path) as journal:
        journal.step(a_step(1))

    assert len(read_journal(journal.path).units) > 30


def test_steps_taken_again_after_a_resume_count_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in (1, 2, 3):
            journal.step(a_step(step, reward=0.1))
    with Journal(tmp_path) as journal:
        for step in (2, 3, 4):
            journal.step(a_step(step, reward=0.9))

    steps = read_journal(journal.path).steps

    assert [(entry.step, entry.metrics["reward/mean"]) for entry in steps] == [
        (1, 0.1),
        (2, 0.9),
        (3, 0.9),
        (4, 0.9),
    ]
    assert journal.path.read_text().count('"units"') == 1


def test_what_was_written_of_weights_that_are_lost_does_not_count(tmp_path: Path) -> None:
    with Journal(tmp_path, resumed=0) as journal:
        journal.evaluation(EVALUATION)
        for step in (1, 2, 3, 4):
            journal.step(a_step(step))
        journal.evaluation(replace(EVALUATION, step=2, version=2))
        journal.evaluation(replace(EVALUATION, step=4, version=4))

    Journal(tmp_path, resumed=2).close()
    Journal(tmp_path, resumed=2).close()  # and once more, with nothing left to forget
    entries = read_journal(journal.path)

    assert [entry.step for entry in entries.steps] == [1, 2]
    assert [entry.step for entry in entries.evaluations] == [0, 2]  # 2 is of the weights that it goes on from
    assert journal.path.read_text().count('{"resumed": 2}') == 1


def test_a_journal_is_readable_while_a_line_is_being_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.step(a_step(1))
    with journal.path.open("a") as file:
        file.write('{"stage": "grpo", "st')

    assert read_journal(journal.path).steps == (a_step(1),)


@pytest.mark.parametrize("line", ["not json", "[]", '{"stage": "grpo"}', '{"evaluation": 3}', "7"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"units": {{}}}}\n{line}\n')

    with pytest.raises(DataError, match=r"metrics\.jsonl: row 2 is not a line of a journal"):
        read_journal(path)
