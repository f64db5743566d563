"""Who needs new weights, and when."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.recipe.schema import Choice, Evaluation, Optimizer, Prompts, Source, Stage
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


def test_where_responses_are_trained_on_engines_get_every_version() -> None:
    online = stations(Online, every_steps=0)

    assert all(online.serves(version) for version in range(11))
