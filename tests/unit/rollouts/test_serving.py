"""What an engine of a stage is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.recipe.schema import (
    NOBODY,
    Choice,
    Cluster,
    Engines,
    Opponent,
    Optimizer,
    Policy,
    Prompts,
    Rollouts,
    Source,
    Stage,
)
from llmrl.rollouts.engines import Serving

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    rollouts=Rollouts(stop=("END",)),
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=1),
)
SHARED = Cluster(placement="shared")


def test_by_default_an_engine_has_its_devices_to_itself_and_plays_nobody() -> None:
    told = Serving.of(STAGE)

    assert told == Serving(model=STAGE.model, engines=STAGE.engines, stop=("END",))
    assert (told.opponent, told.takes_turns, told.beside_copy) == (NOBODY, False, False)


def test_it_plays_the_opponent_of_the_stage() -> None:
    mixture = Opponent(kind="mixture", mixture=0.5)

    assert Serving.of(STAGE.model_copy(update={"opponent": mixture})).opponent == mixture


@pytest.mark.parametrize(("devices", "beside"), [(1, True), (2, False)])
def test_engines_take_turns_with_ranks_on_shared_devices_and_one_lies_beside_what_one_rank_leaves(
    devices: int, beside: bool
) -> None:
    tables = {"cluster": SHARED, "engines": Engines(count=devices), "policy": Policy(ranks=devices)}

    told = Serving.of(STAGE.model_copy(update=tables))

    apart = Serving(model=STAGE.model, engines=Engines(count=devices), stop=("END",))
    assert told == replace(apart, takes_turns=True, beside_copy=beside)
