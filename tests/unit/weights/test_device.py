"""What stays on a GPU that engine and policy share; the memory itself needs one (``tests/gpu``)."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.weights.device import share_beside

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=1),
)


def stage_with(**tables: dict[str, Any]) -> Stage:
    changed = {name: getattr(STAGE, name).model_copy(update=update) for name, update in tables.items()}
    return STAGE.model_copy(update=changed)


@pytest.mark.parametrize(
    ("tables", "left"),
    [
        ({}, True),
        ({"cluster": {"placement": "split"}}, False),
        ({"engines": {"count": 2}, "policy": {"ranks": 2}}, False),
        ({"weights": {"delta": True}}, False),
        ({"weights": {"transport": "memory"}}, False),
    ],
)
def test_weights_are_left_on_the_gpu_where_one_rank_and_one_engine_share_it(
    tables: dict[str, dict[str, Any]], left: bool
) -> None:
    assert stage_with(**{"cluster": {"placement": "shared"}, **tables}).shares_one_device is left


def test_an_engine_leaves_room_for_them() -> None:
    stored = {"a": (1000, 1000), "b": (500,)}

    assert share_beside(stored, dtype="bfloat16", most=0.85, memory=80_000_000_000) == 0.85
    large = {"a": (7_400_000, 1000)}
    assert share_beside(large, dtype="bfloat16", most=0.85, memory=80_000_000_000) == pytest.approx(0.8)
