"""The sandbox where it is used: in the processes of a scorer, under their deadline, limits and killing."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llmrl.rewards import Judgement, Sample
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]

TESTS = ["assert add(2, 3) == 5", "assert add(0, 0) == 0"]
ADD = json.dumps({"test_list": TESTS, "code": "def add(a, b): return a + b"})
RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
HALF = "```python\ndef add(a, b):\n    return 0\n```"
ENDLESS = "```python\ndef add(a, b):\n    while True: pass\n```"


def sample(response: str, answer: str = ADD) -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)


def below(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task")
    children = {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}
    return children.union(*map(below, children))


def left(pids: set[int]) -> set[int]:
    """Those that still run after the kernel had a moment."""
    end = time.monotonic() + 5
    while (alive := {pid for pid in pids if Path(f"/proc/{pid}/exe").exists()}) and time.monotonic() < end:
        time.sleep(0.02)
    return alive


def values(judgements: tuple[Judgement, ...]) -> list[float | None]:
    return [judgement.reward for judgement in judgements]


@pytest.mark.parametrize("isolation", ["kernel", "process"])
async def test_code_is_scored_in_a_scorers_processes(scorer_of: MakeScorer, isolation: str) -> None:
    rewards = {"code": {"kind": "code", "options": {"isolation": isolation, "partial": True}}}
    scorer = await scorer_of(rewards, processes=2, deadline_s=30.0, memory_mib=256)

    judgements = await scorer.judge([sample(RIGHT), sample(HALF), sample("I do not know.")] * 8)

    assert values(judgements) == [1.0, 0.5, 0.0] * 8
    assert values(await scorer.grade_gold([sample(ADD)])) == [1.0]


async def test_a_function_named_like_pythons_own_is_asked_of_the_candidate(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"code": {"kind": "code"}}, deadline_s=30.0)
    row = json.dumps({"test_list": ["assert sum([1, 2]) == 3"], "code": "def sum(a): return a[0] + a[1]"})
    responses = [f"```python\ndef sum(a):\n    return {value}\n```" for value in ("0", "a[0] + a[1]")]

    assert values(await scorer.judge([sample(response, row) for response in responses])) == [0.0, 1.0]


async def test_a_program_that_hangs_costs_its_own_time_and_scores_0(scorer_of: MakeScorer) -> None:
    rewards = {"code": {"kind": "code", "options": {"seconds": 1.0}}}
    scorer = await scorer_of(rewards, deadline_s=20.0)

    start = time.monotonic()
    judgements = await scorer.judge([sample(ENDLESS), sample(RIGHT)])

    assert values(judgements) == [0.0, 1.0]
    assert time.monotonic() - start < 15
    assert scorer.take_statistics()["judgement/restarts"] == 0


async def test_a_deadline_kills_the_jails_with_the_scorers_process(scorer_of: MakeScorer) -> None:
    rewards = {"code": {"kind": "code", "options": {"seconds": 60.0}}}
    scorer = await scorer_of(rewards, deadline_s=2.0)
    (process,) = scorer._processes
    family = {process.pid, *below(process.pid)}

    judgements = await scorer.judge([sample(ENDLESS)])

    assert [judgement.status for judgement in judgements] == ["error"]
    assert len(family) >= 3
    assert left(family) == set()
    assert values(await scorer.judge([sample(RIGHT)])) == [1.0]


async def test_closing_a_scorer_leaves_no_jail(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"code": {"kind": "code"}}, deadline_s=30.0)
    await scorer.judge([sample(RIGHT)])
    (process,) = scorer._processes
    family = {process.pid, *below(process.pid)}

    await scorer.close()

    assert len(family) == 3
    assert left(family) == set()


async def test_an_answer_without_tests_is_an_error_that_says_what_is_missing(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"code": {"kind": "code"}}, deadline_s=30.0)

    (judgement,) = await scorer.judge([sample(RIGHT, answer='{"tests": []}')])

    assert judgement.status == "error"
    assert "the gold answer has no tests: it needs entry_point and test or test_list or " in judgement.note
