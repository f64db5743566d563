"""Awaited rewards on real processes: several responses at once, each with its own deadline."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from llmrl.rewards import Judgement, Sample
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]

DEADLINE_S = 1.0
REWARDS = {
    "first": {"kind": "finished"},
    "bad": {"kind": "awaited"},
    "last": {"kind": "number", "weight": 0.5},
}


def sample(response: str) -> Sample:
    return Sample(prompt="", response=response, answer="5", tokens=1, finished=True)


async def judged(scorer: Scorer, *responses: str) -> tuple[Judgement, ...]:
    return await scorer.judge([sample(response) for response in responses])


async def test_responses_are_awaited_together_up_to_the_limit(scorer_of: MakeScorer) -> None:
    rewards = {"slow": {"kind": "awaited", "options": {"seconds": 0.4}}}
    scorer = await scorer_of(rewards, "awaited_rewards", concurrency=4)

    start = time.monotonic()
    judgements = await judged(scorer, *"abcdefgh")
    took = time.monotonic() - start

    assert [judgement.reward for judgement in judgements] == [1.0] * 8
    assert 0.8 <= took < 0.4 * 8


@pytest.mark.parametrize(
    ("deed", "note", "restarts"),
    [
        ("wait", "gave no verdict within 1 s (scoring.deadline_s) and was cancelled", 0),
        ("swallow", "gave no verdict within 1 s (scoring.deadline_s) and was killed", 1),
        ("block", "gave no verdict within 1 s (scoring.deadline_s) and was killed", 1),
        ("kill", "died with SIGKILL", 1),
        ("raise", "raised KeyError: 'rubric' (", 0),
        ("system exit", "raised SystemExit: 0 (", 0),
        ("cancel", "raised CancelledError (", 0),
        ("nan", "returned nan; a finite number, a bool, None or a Score is allowed", 0),
    ],
)
async def test_a_bad_awaited_reward_is_an_error_in_time_and_the_next_is_right(
    scorer_of: MakeScorer, deed: str, note: str, restarts: int
) -> None:
    scorer = await scorer_of(REWARDS, "awaited_rewards", deadline_s=DEADLINE_S)

    start = time.monotonic()
    (judgement,) = await judged(scorer, deed)
    took = time.monotonic() - start

    assert took < DEADLINE_S + 5
    assert (judgement.status, judgement.reward) == ("error", None)
    assert judgement.note.startswith(f"rewards.bad {note}")
    assert dict(judgement.parts) == {"first": 1.0, "last": 0.0}
    (after,) = await judged(scorer, "# 5")
    assert (after.reward, dict(after.parts)) == (2.5, {"first": 1.0, "bad": 1.0, "last": 1.0})
    assert scorer.take_statistics()["judgement/restarts"] == restarts


async def test_one_that_waits_too_long_costs_the_others_nothing(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of(REWARDS, "awaited_rewards", deadline_s=DEADLINE_S, concurrency=2)

    judgements = await judged(scorer, "wait", "# 5", "abstain", "raise", "# 5", "# 6", "wait", "# 5")

    assert [judgement.reward for judgement in judgements] == [None, 2.5, None, None, 2.5, 2.0, None, 2.5]
    assert Counter(judgement.status for judgement in judgements) == {"error": 3, "abstain": 1, "score": 4}
    assert scorer.take_statistics()["judgement/restarts"] == 0


async def test_a_process_that_dies_takes_along_what_was_under_way_in_it_and_no_more(
    scorer_of: MakeScorer,
) -> None:
    scorer = await scorer_of({"bad": {"kind": "awaited"}}, "awaited_rewards", concurrency=2, deadline_s=5.0)

    judgements = await judged(scorer, "# 1", "kill", "wait", "# 2", "# 3")

    assert [judgement.status for judgement in judgements] == ["score", "error", "error", "score", "score"]
    note = "rewards.bad was one of 2 that were judged in a process which died with SIGKILL"
    assert [judgements[1].note, judgements[2].note] == [note, note]
    assert scorer.take_statistics()["judgement/restarts"] == 1


async def test_a_fork_of_an_awaited_reward_does_not_answer_twice(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"bad": {"kind": "awaited"}}, "awaited_rewards")

    judgements = await judged(scorer, "fork that returns", "# 1", "# 2")

    assert [judgement.reward for judgement in judgements] == [1.0, 1.0, 1.0]
    assert scorer.take_statistics()["judgement/restarts"] == 0


async def test_awaited_rewards_of_one_response_share_its_deadline(scorer_of: MakeScorer) -> None:
    rewards = {name: {"kind": "awaited", "options": {"seconds": 0.7}} for name in ("one", "two")}
    scorer = await scorer_of(rewards, "awaited_rewards", deadline_s=DEADLINE_S)

    (judgement,) = await judged(scorer, "x")

    assert (judgement.status, dict(judgement.parts)) == ("error", {"one": 1.0})
    assert judgement.note == "rewards.two gave no verdict within 1 s (scoring.deadline_s) and was cancelled"
