"""What stays on a GPU that engine and policy share; the memory itself needs one (``tests/gpu``)."""

from __future__ import annotations

import pytest

from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.weights.device import left_on_gpu, share_beside

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=1),
)


def shared(**tables: dict[str, object]) -> Stage:
    tables = {"cluster": {"placement": "shared"}, **tables}
    changed = {name: getattr(STAGE, name).model_copy(update=update) for name, update in tables.items()}
    return STAGE.model_copy(update=changed)


@pytest.mark.parametrize(
    ("stage", "device", "left"),
    [
        (shared(), "cuda", True),
        (shared(), "cpu", False),
        (STAGE, "cuda", False),
        (shared(engines={"count": 2}, policy={"ranks": 2}), "cuda", False),
        (shared(weights={"delta": True}), "cuda", False),
    ],
)
def test_weights_are_left_on_the_gpu_where_one_rank_and_one_engine_share_it(
    stage: Stage, device: str, left: bool
) -> None:
    assert left_on_gpu(stage, device=device) is left


def test_an_engine_leaves_room_for_them() -> None:
    assert share_beside(1_000_000_000, 80_000_000_000, most=0.85) == 0.85
    assert share_beside(15_400_000_000, 80_000_000_000, most=0.85) == pytest.approx(0.8)
