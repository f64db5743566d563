"""A draw's place among the others, and two tries of one: neither ends with the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.responder import Setting, SingleTurn
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.rollouts.worker import RolloutWorker

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=1),
)
DRAW = Draw(
    ordinal=7, prompt=Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
)
SAMPLING = Sampling(purpose="train", per_prompt=1, temperature=1.0, max_tokens=8)


class Slowing(RolloutWorker):
    """The first group takes 0.1 s, those after it no time at all."""

    asked = 0

    async def _group(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        self.asked += 1
        await asyncio.sleep(0.1 if self.asked == 1 else 0)
        return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=())


AGAIN = replace(DRAW, tries=1)


async def test_a_draw_that_is_made_again_and_answered_meanwhile_ends_well_itself() -> None:
    worker = Slowing(STAGE, "cpu", 0)
    first = asyncio.create_task(worker.generate(DRAW, SAMPLING))
    await asyncio.sleep(0)

    again = await worker.generate(AGAIN, SAMPLING)

    assert again.ordinal == (await first).ordinal == 7


async def test_a_draw_that_is_made_again_is_not_abandoned_with_the_one_before() -> None:
    worker = Slowing(STAGE, "cpu", 0)
    again, before = (asyncio.create_task(worker.generate(draw, SAMPLING)) for draw in (AGAIN, DRAW))
    await asyncio.sleep(0)  # Ray may well begin the new one before it tells that the old one is given up

    await worker.abandon(DRAW, SAMPLING)

    with pytest.raises(EngineError, match="abandoned"):
        await before
    assert (await again).ordinal == 7


def test_a_response_waits_for_a_place_in_the_order_of_the_draws_and_after_those_that_are_trained_on() -> None:
    nobody: Any = None
    single = SingleTurn(setting=Setting(stage=STAGE, engine=nobody, tokenizer=nobody, seed=0))
    trained, newest = replace(SAMPLING, together=100), replace(DRAW, ordinal=10**9)

    assert single.request(DRAW, trained, 0).order == 7
    first, second = (single.request(draw, SAMPLING, 0).order for draw in (DRAW, newest))
    assert single.request(newest, trained, 0).order < first < second
