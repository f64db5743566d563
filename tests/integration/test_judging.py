"""Responses are judged while others of their group are still being written, on a real engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from llmrl.cluster.actor import Actor
from llmrl.errors import EngineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import (
    Choice,
    Engines,
    Model,
    Optimizer,
    Prompts,
    Reward,
    Rollouts,
    Scoring,
    Source,
    Stage,
)
from llmrl.report.timeline import Timeline
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.environments import Environment, Reply, Turn
from llmrl.rollouts.news import Finished, key_of
from llmrl.rollouts.pool import EnginePool
from llmrl.rollouts.rollout import Response, RolloutGroup
from llmrl.rollouts.worker import RolloutWorker
from llmrl.run.judging import Judging
from recipes.claims.here import Here

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLING = Sampling(purpose="train", per_prompt=6, temperature=1.0, max_tokens=60)
DEADLINE_S = 120.0


class Broken:
    """An engine that tells nothing."""

    asked = 0

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        self.asked += 1
        raise EngineError("engine-0.news failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorkeeper(Environment):
    """Ends every conversation after one turn, but lets one of them wait until the others are judged."""

    held: threading.Event = field(default_factory=threading.Event)
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(SAMPLING.per_prompt - 1))

    def start(self, prompt: Prompt, *, seed: int) -> Doorkeeper:
        return self

    async def reply(self, turn: Turn) -> Reply:
        if not self.places.acquire(blocking=False):
            assert await asyncio.to_thread(self.held.wait, DEADLINE_S)
        return Reply(over=True)


@pytest.fixture(scope="module")
def stage(tiny_model: Path) -> Stage:
    return Stage(
        model=Model(path=str(tiny_model), context_tokens=256),
        prompts=Prompts(sources=(Source(task="digit_sum", rows=50),)),
        rollouts=Rollouts(max_tokens=60),
        engines=Engines(kind="torch"),
        rewards={"short": Reward(kind="length", options={"max_tokens": 60})},
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stage: Stage) -> AsyncIterator[RolloutWorker]:
    worker = RolloutWorker(stage, "cpu", 0)
    await worker.start()
    yield worker
    await worker.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scorer(stage: Stage) -> AsyncIterator[Scorer]:
    scorer = Scorer(stage.rewards, Scoring(processes=1), (), stage.cluster)
    await scorer.start()
    yield scorer
    await scorer.close()


@pytest.fixture(scope="module")
def draw(stage: Stage) -> Draw:
    return PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0).at(0)


def judging_of(worker: RolloutWorker, scorer: Scorer, folder: Path, *, compares: bool = False) -> Judging:
    timeline = Timeline(folder, steps=0)
    return Judging(pool=EnginePool([worker.generate]), scorer=scorer, timeline=timeline, compares=compares)


@asynccontextmanager
async def all_judged_but_one(
    judging: Judging, worker: RolloutWorker, scorer: Scorer, draw: Draw
) -> AsyncGenerator[tuple[asyncio.Task[Any], Doorkeeper]]:
    """A group that waits for its last response, and who lets that one go."""
    door = Doorkeeper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_respond", worker._responder(door))
        async with judging.listening([cast("Actor", Here(worker, "engine-0"))], deadline_s=DEADLINE_S):
            answering = asyncio.create_task(judging.answer(draw, SAMPLING))
            await until(lambda: scorer._tally.asked == SAMPLING.per_prompt - 1)
            yield answering, door
        door.held.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


def scores(group: RolloutGroup) -> list[float]:
    return [1 - rollout.tokens.size / 60 for rollout in group.rollouts]


async def test_responses_are_told_as_they_are_finished_each_once(worker: RolloutWorker, draw: Draw) -> None:
    told: list[Finished] = []
    writing = asyncio.create_task(worker.generate(draw, SAMPLING))
    while not writing.done():
        told += await worker.news()

    group = await writing
    assert len({finished.number for finished in told}) == len(told) > 0
    for finished in told:
        assert finished.draw == key_of(draw, SAMPLING) == ("train", draw.ordinal, 0)
        assert finished.response == group.rollouts[finished.number].response
    assert await worker.news() == []


async def test_a_group_is_judged_while_its_last_response_is_written(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    judging = judging_of(worker, scorer, tmp_path)
    async with all_judged_but_one(judging, worker, scorer, draw) as (answering, door):
        assert not answering.done()
        door.held.set()
        group, judgements = await answering

    assert scorer._tally.asked == SAMPLING.per_prompt
    assert [one.reward for one in judgements] == pytest.approx(scores(group))
    assert len(set(scores(group))) > 1
    assert not judging.expected


async def test_rewards_that_compare_wait_for_the_whole_group(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    engine = Broken()
    judging = judging_of(worker, scorer, tmp_path, compares=True)
    async with judging.listening([cast("Actor", engine)], deadline_s=DEADLINE_S):
        group, judgements = await judging.answer(draw, SAMPLING)

    assert engine.asked == 0
    assert [one.reward for one in judgements] == pytest.approx(scores(group))


async def test_what_was_told_of_an_earlier_evaluation_is_not_believed_of_the_next(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    judging = judging_of(worker, scorer, tmp_path)
    answering = asyncio.create_task(judging.answer(draw, SAMPLING))
    await until(lambda: bool(judging.expected))
    other = Response(text="other", last_turn=None, tokens=0, stop="stop", outcome=None)
    judging._begin(Finished(draw=key_of(draw, SAMPLING), number=2, response=other))
    judging._begin(Finished(draw=("train", 99, 0), number=2, response=other))

    group, judgements = await answering
    assert [one.reward for one in judgements] == pytest.approx(scores(group))


async def test_an_engine_that_tells_nothing_costs_no_judgement(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    engine = Broken()
    judging = judging_of(worker, scorer, tmp_path)
    async with judging.listening([cast("Actor", engine)], deadline_s=DEADLINE_S):
        group, judgements = await judging.answer(draw, SAMPLING)

    assert engine.asked == 1
    assert [one.reward for one in judgements] == pytest.approx(scores(group))


async def test_a_group_that_fails_takes_the_judgements_that_had_begun_with_it(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    judging = judging_of(worker, scorer, tmp_path)
    async with all_judged_but_one(judging, worker, scorer, draw) as (answering, _):
        await worker.abandon(draw, SAMPLING)
        with pytest.raises(EngineError, match="abandoned"):
            await answering

    assert not judging.expected
    assert await worker.news() == []


async def test_what_is_told_of_a_group_that_is_there_is_not_judged_again(
    worker: RolloutWorker, scorer: Scorer, draw: Draw, tmp_path: Path
) -> None:
    judging = judging_of(worker, scorer, tmp_path)
    judge, asked = scorer.judge, list[int]()

    async def told_late(samples: Sequence[Sample]) -> tuple[Judgement, ...]:
        asked.append(len(samples))
        response = Response(text=samples[0].response, last_turn=None, tokens=1, stop="stop", outcome=None)
        judging._begin(Finished(draw=key_of(draw, SAMPLING), number=0, response=response))
        return await judge(samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "judge", told_late)
        await judging.answer(draw, SAMPLING)

    assert asked == [SAMPLING.per_prompt]
