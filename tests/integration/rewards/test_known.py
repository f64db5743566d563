"""Verdicts that are known already, in a real scorer, and the numbers that it gives about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards import Sample
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]


def samples(*responses: str) -> list[Sample]:
    return [
        Sample(prompt="p", response=response, answer=None, tokens=1, finished=True) for response in responses
    ]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def rewards(calls: Path) -> dict[str, object]:
    return {"count": {"kind": "counting", "options": {"calls": str(calls)}}, "end": {"kind": "finished"}}


async def test_equal_samples_are_judged_once_and_errors_again(scorer_of: MakeScorer, calls: Path) -> None:
    scorer = await scorer_of(rewards(calls), "counting_rewards", cache=100)

    first = await scorer.judge(samples("abc", "abstain", "abc", "raise"))
    second = await scorer.judge(samples("raise", "abc", "abstain", "ab"))

    assert [judgement.reward for judgement in first] == [4.0, None, 4.0, None]
    assert [judgement.reward for judgement in second] == [None, 4.0, None, 3.0]
    assert [judgement.status for judgement in second] == ["error", "score", "abstain", "score"]
    assert Counter(calls.read_text().split()) == {"abc": 1, "abstain": 1, "raise": 2, "ab": 1}
    assert (first[0].seconds > 0, first[2].seconds, second[1].seconds) == (True, 0.0, 0.0)


async def test_a_sample_that_differs_in_anything_is_another(scorer_of: MakeScorer, calls: Path) -> None:
    scorer = await scorer_of(rewards(calls), "counting_rewards", cache=100)
    (one,) = samples("abc")
    others = [
        replace(one, prompt="q"),
        replace(one, answer="5"),
        replace(one, finished=False),
        replace(one, tokens=2),
        replace(one, source="s"),
        replace(one, outcome=0.0),
        replace(one, rivals=("x",)),
    ]

    judgements = await scorer.judge([one, *others])

    assert calls.read_text().split() == ["abc"] * 8
    assert [judgement.reward for judgement in judgements] == [4.0, 4.0, 4.0, 3.0, 4.0, 4.0, 4.0, 4.0]


async def test_without_a_cache_everything_is_judged(scorer_of: MakeScorer, calls: Path) -> None:
    scorer = await scorer_of(rewards(calls), "counting_rewards")

    await scorer.judge(samples("abc", "abc"))

    assert calls.read_text().split() == ["abc", "abc"]


@pytest.mark.parametrize("table", [{"kind": "moody"}, {"kind": "versus", "options": {"kind": "moody"}}])
async def test_scores_that_may_change_are_not_kept(scorer_of: MakeScorer, table: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        await scorer_of({"mood": table}, "counting_rewards", cache=10)

    assert str(caught.value) == (
        "scoring.cache: rewards.mood may score the same sample otherwise the next time (changes = True), "
        "so its scores cannot be kept; set scoring.cache = 0."
    )


async def test_statistics_are_those_since_the_last_time(scorer_of: MakeScorer, calls: Path) -> None:
    scorer = await scorer_of(rewards(calls), "counting_rewards", cache=100)
    await scorer.judge(samples("abc", "abc", "abstain", "raise"))

    numbers = scorer.take_statistics()

    assert numbers["judgement/known_rate"] == 0.25
    assert numbers["judgement/restarts"] == 0
    assert numbers["judgement/error_rate/count"] == pytest.approx(1 / 3)
    assert numbers["judgement/abstain_rate/count"] == pytest.approx(1 / 3)
    assert numbers["judgement/error_rate/end"] == 0.0
    assert 0 < numbers["judgement/seconds_p50/count"] <= numbers["judgement/seconds_max/count"] < 10
    assert scorer.take_statistics() == {}
