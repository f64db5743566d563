"""What a run writes down about how hard its prompts are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.prompts.pass_rates import read_pass_rates
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Choice, Evaluation, Optimizer, Prompts, Report, Reward, Source, Stage
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.run.loop import Judged
from llmrl.run.record import Record


def rollout(*, opponent: bool = False) -> Rollout:
    return Rollout(
        tokens=np.array([3, 2], dtype=np.int32),
        logp=np.zeros(2, dtype=np.float32),
        version=np.zeros(2, dtype=np.int32),
        trained=np.ones(2, dtype=np.bool_),
        turn=np.zeros(2, dtype=np.int32),
        stop="stop",
        text="0",
        opponent=opponent,
    )


def judged(row: int, *scores: float | None, opponents: int = 0) -> Judged:
    """A group whose last responses are an opponent's; None is an abstention."""
    prompt = Prompt(
        id=f"sums/{row}", tokens=np.array([3], dtype=np.int32), text="", answer="1", source="sums"
    )
    rollouts = [rollout(opponent=place >= len(scores) - opponents) for place in range(len(scores))]
    judgements = [
        Judgement(status="abstain", reward=None)
        if score is None
        else Judgement(status="score", reward=score, parts={"right": score, "short": 1.0})
        for score in scores
    ]
    group = RolloutGroup(ordinal=row, prompt=prompt, rollouts=tuple(rollouts))
    return Judged(group=group, judgements=tuple(judgements))


@pytest.mark.parametrize(("reward", "rates"), [(None, [0.5, 1.0, 0.0]), ("short", [1.0, 1.0, 1.0])])
def test_every_group_leaves_its_share_of_solved_responses(
    tmp_path: Path, make_record: Callable[..., Record], reward: str | None, rates: list[float]
) -> None:
    stage = Stage(
        prompts=Prompts(sources=(Source(task="digit_sum", rows=3),)),
        rewards={"right": Reward(kind="number"), "short": Reward(kind="length")},
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        evaluation=Evaluation(reward=reward),
        report=Report(trackers=(), samples_every_steps=0),
    )
    groups = [judged(0, 1.0, 0.5, None), judged(1, 1.0, 1.0, 0.0, opponents=1), judged(2, 0.0, 0.0)]
    experience = Experience(
        group=groups[0].group,
        judgements=groups[0].judgements,
        advantages=(np.zeros(2, np.float32),) * 3,
        lag=0,
    )
    record = make_record(stage)
    for number, group in enumerate(groups):
        record.judged(group, kept=number == 0)  # what is dropped counts like the rest
    record.stepped(0, [experience], {"policy/tokens": 6.0}, train_s=1.0)

    found = read_pass_rates(tmp_path / "pass_rates.jsonl", key="s")

    assert found == {f"sums/{row}": rate for row, rate in enumerate(rates)}
