"""Metrics of named rewards, from their verdicts."""

from __future__ import annotations

import pytest

from llmrl.report.metrics import metric
from llmrl.rewards.scoring.part import Part
from llmrl.rewards.scoring.tally import Tally


def test_rates_and_percentiles_are_of_each_reward_by_itself() -> None:
    tally = Tally(known=5, restarts=2)
    for n in range(1, 6):
        slow = Part(status="error" if n == 5 else "score", value=None if n == 5 else 1.0, seconds=n)
        quick = Part(status="abstain" if n > 2 else "score", value=None if n > 2 else 0.0, seconds=0.5)
        tally.count({"slow": slow, "quick": quick})

    assert tally.statistics() == pytest.approx(
        {
            "judgement/restarts": 2,
            "judgement/known_rate": 0.5,
            "judgement/seconds_p50/slow": 3.0,
            "judgement/seconds_p95/slow": 4.8,
            "judgement/seconds_max/slow": 5.0,
            "judgement/error_rate/slow": 0.2,
            "judgement/abstain_rate/slow": 0.0,
            "judgement/seconds_p50/quick": 0.5,
            "judgement/seconds_p95/quick": 0.5,
            "judgement/seconds_max/quick": 0.5,
            "judgement/error_rate/quick": 0.0,
            "judgement/abstain_rate/quick": 0.6,
        }
    )


def test_a_reward_that_was_not_reached_counts_only_where_it_was() -> None:
    tally = Tally()
    tally.count({"first": Part(status="score", value=1.0, seconds=1.0), "last": Part(status="error")})
    tally.count({"first": Part(status="error", seconds=3.0)})

    numbers = tally.statistics()

    assert (numbers["judgement/error_rate/first"], numbers["judgement/error_rate/last"]) == (0.5, 1.0)
    assert numbers["judgement/seconds_p50/first"] == 2.0


def test_every_number_has_a_meaning() -> None:
    tally = Tally(known=1)
    tally.count({"any name": Part(status="score", value=1.0)})

    assert {metric(name).group for name in tally.statistics()} == {"judgement"}


def test_a_step_in_which_nothing_was_judged_has_no_numbers() -> None:
    assert Tally().statistics() == {}
