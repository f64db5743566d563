"""The error budget of a step."""

from __future__ import annotations

import pytest

from llmrl.errors import RewardError
from llmrl.rewards import Judgement
from llmrl.rewards.scoring.budget import ErrorBudget

GOOD = Judgement(status="score", reward=1.0)
ABSTAINED = Judgement(status="abstain", reward=None)


def error(note: str) -> Judgement:
    return Judgement(status="error", reward=None, note=note)


def test_a_share_at_the_limit_is_tolerated_and_abstentions_are_no_errors() -> None:
    ErrorBudget(0.1).check([error("x"), ABSTAINED, *[GOOD] * 8])
    ErrorBudget(0.0).check([])


def test_a_share_above_the_limit_names_rate_limit_and_the_commonest_note() -> None:
    judgements = [
        error("rewards.a raised KeyError"),
        error("rewards.b hung"),
        error("rewards.b hung"),
        *[GOOD] * 5,
    ]

    with pytest.raises(RewardError) as caught:
        ErrorBudget(0.25).check(judgements)

    assert str(caught.value) == (
        "rewards: 3 of 8 judgements of a step failed (37.5%), scoring.max_error_rate allows 25.0%. "
        "Most frequent (2 times): rewards.b hung."
    )
