"""Who needs new weights, and when."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from llmrl.objectives.algorithm import Algorithm
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Evaluation, Optimizer, Prompts, Source, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.worker import RolloutWorker
from llmrl.run.stations import Offline, Online, StageStations


def stations(kind: type[StageStations], *, every_steps: int) -> StageStations:
    stage = Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="sft"),
        optimizer=Optimizer(steps=10),
        evaluation=Evaluation(every_steps=every_steps),
    )
    others = dict.fromkeys(("stream", "trainer", "judging", "algorithm"))
    more: dict[str, Any] = {"evaluated": ["a prompt"], **({"budget": None} if kind is Online else {})}
    return kind(stage=stage, **others, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("every_steps", "served"), [(0, [0, 10]), (4, [0, 4, 8, 10])])
def test_where_nothing_is_generated_engines_get_the_weights_that_are_evaluated(
    every_steps: int, served: list[int]
) -> None:
    offline = stations(Offline, every_steps=every_steps)

    assert [version for version in range(11) if offline.serves(version)] == served


class Behind:
    """A judging that remembers what it was asked; the ledger of a trainer that takes any note."""

    def __init__(self) -> None:
        self.asked: list[Draw] = []
        self.trainer = SimpleNamespace(
            ledger=SimpleNamespace(late=lambda _: None, generated=lambda *_, **__: None),
            record=SimpleNamespace(late=lambda: None),
        )

    async def answer(self, draw: Draw, _sampling: Sampling) -> tuple[SimpleNamespace, tuple[()]]:
        self.asked.append(draw)
        return SimpleNamespace(oldest_version=0), ()


async def test_a_draw_that_was_given_up_is_not_answered_with_the_same_responses() -> None:
    behind, online = Behind(), stations(Online, every_steps=0)
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    given: dict[str, Any] = {
        "algorithm": Algorithm.of(online.stage.model_copy(update={"objective": Choice(name="grpo")})),
        "stream": SimpleNamespace(at=lambda ordinal: Draw(ordinal=ordinal, prompt=prompt)),
        "judging": behind,
        "trainer": behind.trainer,
    }
    online = replace(cast("Online", online), **given)

    await online.obtain(7)
    online.late(7)
    await online.obtain(7)
    await online.obtain(8)

    assert [(draw.ordinal, draw.tries) for draw in behind.asked] == [(7, 0), (7, 1), (8, 0)]
    worker = RolloutWorker.__new__(RolloutWorker)
    worker._seed = 5
    sampling = Sampling(purpose="train", per_prompt=1, temperature=1.0, max_tokens=8)
    first, again, _ = (worker._seeds(draw, sampling) for draw in behind.asked)
    assert first == (5, "train", 7, "p/0")
    assert again == (*first, "again 1")


def test_where_responses_are_trained_on_engines_get_every_version() -> None:
    online = stations(Online, every_steps=0)

    assert all(online.serves(version) for version in range(11))
