"""What a step says of the policy is of what the policy wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from llmrl.batches.batch import TokenScores, Totals
from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.objectives.algorithm import Algorithm
from llmrl.policy.reduce import Tally
from llmrl.policy.step import Known, Learner
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.rollouts.rollout import Rollout, RolloutGroup

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="xpo"),
    optimizer=Optimizer(steps=1),
)


class Alone:
    """The only rank."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        return values


def rollout(logp: float) -> Rollout:
    return Rollout(
        tokens=np.array([5, 6], np.int32),
        logp=np.full(2, logp, np.float32),
        version=np.zeros(2, np.int32),
        trained=np.ones(2, np.bool_),
        turn=np.zeros(2, np.int32),
        stop="stop",
        text="",
    )


def pair_with_an_opponent() -> Collated:
    rollouts = (rollout(-1.0), replace(rollout(-9.0), opponent=True))
    prompt = Prompt(id="p", tokens=np.array([1, 2], np.int32), text="", answer=None, source="p")
    experience = Experience(
        group=RolloutGroup(ordinal=0, prompt=prompt, rollouts=rollouts),
        judgements=(),
        advantages=tuple(np.ones(2, np.float32) for _ in rollouts),
        lag=0,
        pairs=((0, 1),),
    )
    return Step(Columns.of([experience])).collate(np.array([0, 1]))


def learner_of(objective: str) -> Learner:
    return Learner(
        zero=cast("Any", None),
        algorithm=Algorithm.of(STAGE.model_copy(update={"objective": Choice(name=objective)})),
        scope="token",
        forward=cast("Any", None),
        reference=None,
    )


def test_an_opponents_tokens_are_no_difference_of_engine_and_trainer() -> None:
    rows, learner, tally = pair_with_an_opponent(), learner_of("xpo"), Tally()
    scored = TokenScores(
        logp=torch.tensor([[-1.5, -1.5], [-4.0, -4.0]]), entropy=torch.tensor([[0.5, 0.7], [3.0, 3.0]])
    )

    reference = TokenScores(logp=torch.full((4,), -4.0))
    learner._share(rows, scored, Totals(tokens=4, responses=2, pairs=1), Known(reference=reference), tally)

    said = tally.over(Alone())
    assert said["policy/kl_sampled"] == pytest.approx(0.5)
    assert said["policy/entropy"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("old", "theirs"),
    [(None, -4.0), (TokenScores(logp=torch.tensor([-1.2, -1.2, -3.0, -3.0])), -3.0)],
    ids=["of one update", "of several"],
)
def test_a_ratio_to_the_engine_is_to_the_policy_on_what_an_opponent_wrote(
    old: TokenScores | None, theirs: float
) -> None:
    scored = TokenScores(logp=torch.tensor([[-1.5, -1.5], [-4.0, -4.0]]))

    batch = learner_of("rebel")._compared(pair_with_an_opponent(), scored, Known(old=old)).batch

    # The engine reported -1 of the policy's tokens, and -9 of the opponent's: those are the opponent's own.
    torch.testing.assert_close(batch.old.logp, torch.tensor([[-1.0, -1.0], [theirs, theirs]]))
