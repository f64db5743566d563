"""A step that can never fill ends the run with a reason instead of going on for ever."""

from __future__ import annotations

import pytest

from llmrl.errors import RewardError
from llmrl.rewards.judgement import Judgement
from llmrl.run.step_budget import StepBudget

FAILED = Judgement(status="error", reward=None, note="rewards.answer raised KeyError")
GOOD = Judgement(status="score", reward=1.0)


def test_a_reward_that_always_fails_ends_the_run_although_every_group_is_refused() -> None:
    budget = StepBudget(per_step=4, max_error_rate=0.1)
    for _ in range(3):
        budget.spend([FAILED, FAILED], "nothing judged")

    with pytest.raises(RewardError, match=r"8 of 8 judgements of a step failed .* raised KeyError"):
        budget.spend([FAILED, FAILED], "nothing judged")


def test_a_reward_that_never_varies_ends_the_run() -> None:
    budget = StepBudget(per_step=2, max_error_rate=0.1, refills=10)
    budget.spend([GOOD, GOOD], None)
    for _ in range(20):
        budget.spend([GOOD, GOOD], "rewards equal")

    with pytest.raises(
        RewardError, match=r"a step of 2 groups kept 1 and refused 21 \(most often, 21 times: rewards equal\)"
    ):
        budget.spend([GOOD, GOOD], "rewards equal")


def test_a_step_may_go_on_with_the_groups_that_it_has() -> None:
    budget = StepBudget(per_step=2, max_error_rate=0.1, refills=1, when_exhausted="train")
    budget.spend([GOOD, GOOD], None)
    for _ in range(2):
        budget.spend([GOOD, GOOD], "rewards equal")
    assert not budget.exhausted

    budget.spend([GOOD, GOOD], "rewards equal")

    assert budget.exhausted
    budget.step_done()
    assert not budget.exhausted


def test_a_step_without_any_group_ends_the_run_in_either_case() -> None:
    budget = StepBudget(per_step=2, max_error_rate=0.1, refills=1, when_exhausted="train")
    for _ in range(3):
        budget.spend([GOOD, GOOD], "rewards equal")

    with pytest.raises(RewardError, match="kept 0 and refused 4"):
        budget.spend([GOOD, GOOD], "rewards equal")


def test_a_step_that_has_no_group_yet_may_still_get_one_that_is_under_way() -> None:
    budget = StepBudget(per_step=2, max_error_rate=0.1, refills=1, when_exhausted="train")
    for _ in range(3):  # its two groups, one of the two others, and the last one is still generated
        budget.spend([GOOD, GOOD], "rewards equal")
    assert budget.exhausted

    budget.spend([GOOD, GOOD], None)


def test_refusals_are_forgiven_when_the_step_fills() -> None:
    budget = StepBudget(per_step=2, max_error_rate=0.5, refills=1)
    for _ in range(20):
        budget.spend([GOOD, FAILED], "rewards equal")
        budget.step_done()
