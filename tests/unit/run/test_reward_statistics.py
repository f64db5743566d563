"""What a step writes down about each of its named rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmrl.experience.experience import Experience
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Report, Reward, Scoring, Source, Stage
from llmrl.report.journal import read_journal
from llmrl.rewards.judgement import Sample
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.run.record import Record

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum", rows=3),)),
    rewards={"right": Reward(kind="number"), "whole": Reward(kind="finished", weight=0)},
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=2),
    report=Report(trackers=(), samples_every_steps=0),
)


def sample(response: str, answer: str | None) -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)


async def test_a_step_has_the_rates_of_what_was_judged_since_the_last_one(
    tmp_path: Path, make_record: Callable[..., Record], imitated: Experience
) -> None:
    scorer = Scorer(STAGE.rewards, Scoring(), (), STAGE.cluster)
    record = make_record(STAGE, scorer)
    try:
        await scorer.start()
        await scorer.judge([sample("# 5", "5"), sample("# 6", "5"), sample("# 5", None), sample("# 1", None)])
        record.stepped(0, [imitated], {"policy/tokens": 2.0}, train_s=1.0)
        record.stepped(1, [imitated], {"policy/tokens": 2.0}, train_s=1.0)
    finally:
        await scorer.close()

    first, second = (entry.metrics for entry in read_journal(tmp_path / "metrics.jsonl").steps)

    assert (first["judgement/error_rate/right"], first["judgement/error_rate/whole"]) == (0.5, 0.0)
    assert first["judgement/abstain_rate/right"] == 0.0
    assert first["judgement/seconds_p50/right"] <= first["judgement/seconds_max/right"] < 10
    assert first["judgement/restarts"] == 0
    assert not [name for name in second if name.startswith("judgement/")]


def test_what_is_scored_ahead_of_a_step_is_work_of_that_step_alone(
    tmp_path: Path, make_record: Callable[..., Record], imitated: Experience
) -> None:
    record = make_record(STAGE)
    record.scored_ahead(1.5)
    record.scored_ahead(1.0)
    record.stepped(0, [imitated], {"policy/tokens": 6.0}, train_s=0.5)
    record.stepped(1, [imitated], {"policy/tokens": 6.0}, train_s=0.5)

    first, second = (entry.metrics for entry in read_journal(tmp_path / "metrics.jsonl").steps)

    assert (first["time/train"], second["time/train"]) == (3.0, 0.5)
    assert (first["policy/tokens_per_second"], second["policy/tokens_per_second"]) == (2.0, 12.0)
    assert first["time/wait"] == pytest.approx(first["time/step"] - 3.0)
