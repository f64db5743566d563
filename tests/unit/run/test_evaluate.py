"""What an evaluation counts: correct, wrong, and what nobody could judge."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Evaluation, Optimizer, Prompts, Reward, Source, Stage
from llmrl.report.journal import EvaluationEntry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.run.evaluate import evaluate
from llmrl.run.statistics import wilson_interval

RIGHT = Judgement(status="score", reward=1.0, parts={"answer": 1.0})
WRONG = Judgement(status="score", reward=0.0, parts={"answer": 0.0})
ABSTAINED = Judgement(status="abstain", reward=None)
FAILED = Judgement(status="error", reward=None, note="the server is gone")
ELSEWHERE = Judgement(status="error", reward=None, parts={"answer": 1.0}, note="another reward failed")


TOKENS = np.array([3], dtype=np.int32)


def stage_of(*, per_prompt: int, k: tuple[int, ...] = (1,)) -> Stage:
    return Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        rewards={"answer": Reward(kind="number")},
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        evaluation=Evaluation(per_prompt=per_prompt, temperature=1.0, k=k),
    )


def prompts_of(count: int) -> list[Prompt]:
    return [Prompt(id=f"p/{row}", tokens=TOKENS, text="", answer="1", source="p") for row in range(count)]


def evaluated(*judgements: Sequence[Judgement], k: tuple[int, ...] = (1,)) -> EvaluationEntry:
    """Each prompt's responses, judged like this."""
    stage, prompts = stage_of(per_prompt=len(judgements[0]), k=k), prompts_of(len(judgements))
    one = Rollout(
        tokens=TOKENS, logp=TOKENS.astype(np.float32), version=TOKENS, trained=TOKENS > 0, turn=TOKENS,
        stop="stop", text="",
    )  # fmt: skip

    async def answer(draw: Draw, sampling: Sampling) -> tuple[RolloutGroup, Sequence[Judgement]]:
        group = RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=(one,) * sampling.per_prompt)
        return group, judgements[draw.ordinal]

    return asyncio.run(evaluate(stage, prompts, answer, version=0))


def test_what_could_not_be_judged_is_counted_apart_and_not_as_wrong() -> None:
    entry = evaluated([RIGHT], [WRONG], [RIGHT], [RIGHT], [FAILED], [ABSTAINED])

    assert (entry.correct, entry.n, entry.unjudged, entry.accuracy) == (3, 4, 2, 0.75)
    assert (entry.low, entry.high) == pytest.approx(tuple(wilson_interval(3, 4)))
    assert entry.basis == f"n = 4, 95 % {entry.low:.3f}-{entry.high:.3f}, 2 not judged"


def test_nobody_generates_any_more_for_an_evaluation_that_has_failed() -> None:
    given_up: list[int] = []

    async def answer(draw: Draw, _sampling: Sampling) -> tuple[RolloutGroup, Sequence[Judgement]]:
        if draw.ordinal == 1:
            raise EngineError("the environment is gone")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(draw.ordinal)
            raise
        raise AssertionError("nobody waits so long")

    async def run() -> None:
        async with asyncio.timeout(10):
            await evaluate(stage_of(per_prompt=1), prompts_of(3), answer, version=0)

    with pytest.raises(EngineError, match="the environment is gone"):
        asyncio.run(run())
    assert sorted(given_up) == [0, 2]


def test_the_deciding_reward_alone_says_what_is_judged() -> None:
    assert evaluated([ELSEWHERE], [WRONG]).accuracy == 0.5


def test_pass_at_k_is_over_the_prompts_with_k_judged_responses() -> None:
    entry = evaluated([RIGHT, WRONG], [WRONG, WRONG], [RIGHT, FAILED], [FAILED, FAILED], k=(1, 2))

    # pass@1: shares 1/2, 0 and 1 of three prompts; pass@2: two prompts, of which one has a right response.
    assert entry.pass_at_k == {1: pytest.approx(0.5), 2: 0.5}
    assert (entry.correct, entry.n, entry.unjudged) == (2, 5, 3)


def test_with_a_broken_scorer_there_is_no_accuracy() -> None:
    entry = evaluated([FAILED], [FAILED])

    assert math.isnan(entry.accuracy)
    assert (entry.correct, entry.n, entry.unjudged) == (0, 0, 2)
    assert math.isnan(entry.pass_at_k[1])
    assert entry.basis == "n = 0, 95 % nan-nan, 2 not judged"
