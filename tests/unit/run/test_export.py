"""``llmrl export`` says at once what it cannot export, and finds the newest checkpoint if none is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmrl.errors import CheckpointError, DataError, RecipeError
from llmrl.recipe.schema import (
    Choice,
    Cluster,
    Model,
    Optimizer,
    Prompts,
    Recipe,
    Role,
    Run,
    Source,
    Stage,
)
from llmrl.run.checkpoint import Checkpoints, RunState
from llmrl.run.export import Sealed, _for_ranks, export_model, find_checkpoint
from llmrl.run.ledger import Snapshot

STATE = RunState(step=0, ledger=Snapshot(cursor=0, unfinished=()), memory={}, data="", tables={})
STAGE = Stage(
    name="warm",
    model=Model(config={"model_type": "qwen3"}, characters="ab"),
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=4),
)


def seal(stage: Path, step: int) -> Path:
    checkpoints = Checkpoints(stage / "checkpoints", keep=9)
    path = checkpoints.begin(step)
    (path / "rng-0.npz").write_bytes(b"random")
    return checkpoints.commit(path, replace(STATE, step=step), written=[path / "rng-0.npz"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two stages that has since been moved."""
    stages = (STAGE, STAGE.model_copy(update={"name": "rl"}))
    recipe = Recipe(run=Run(name="first", folder=Path("/elsewhere")), stages=stages)
    folder = tmp_path / "moved"
    for index in range(2):
        (folder / recipe.stage_folder(index).name).mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    return folder


def found(where: Path) -> tuple[str, int]:
    sealed = find_checkpoint(where)
    return sealed.stage.name, sealed.step


def test_of_a_run_or_a_stage_the_newest_checkpoint_is_meant(run: Path) -> None:
    two = [seal(run / "0-warm", step) for step in (2, 4)]

    assert found(run) == found(run / "0-warm") == found(run / "0-warm" / "checkpoints") == ("warm", 4)
    assert found(two[0]) == ("warm", 2)

    seal(run / "1-rl", 1)

    assert found(run) == ("rl", 1)
    assert found(run / "0-warm") == ("warm", 4)


def test_a_run_that_was_moved_has_its_models_where_it_is(run: Path) -> None:
    seal(run / "1-rl", 1)

    assert _for_ranks(find_checkpoint(run)).model.path == str(run / "0-warm" / "model")


@pytest.mark.parametrize("inside", ["", "1-rl", "1-rl/checkpoints", "0-warm/checkpoints/step-000003", "2-x"])
def test_where_nothing_is_sealed_there_is_nothing_to_export(run: Path, inside: str) -> None:
    (run / "0-warm" / "checkpoints" / ".tmp-step-000003").mkdir(parents=True)

    with pytest.raises(CheckpointError, match=r"no checkpoint is sealed here; name a run, a stage or a"):
        find_checkpoint(run / inside)


def test_a_damaged_checkpoint_is_named_and_none_other_taken_for_it(run: Path) -> None:
    seal(run / "0-warm", 2)
    newer = seal(run / "0-warm", 4)
    (newer / "rng-0.npz").write_bytes(b"damage")

    assert found(run) == ("warm", 2)
    with pytest.raises(CheckpointError, match=r"step-000004: rng-0\.npz is damaged"):
        find_checkpoint(newer)


def test_where_none_is_intact_nobody_is_told_to_start_over(run: Path) -> None:
    (seal(run / "0-warm", 2) / "rng-0.npz").write_bytes(b"damage")

    with pytest.raises(CheckpointError, match=r"none of 1 checkpoints is intact; name another checkpoint\."):
        find_checkpoint(run)


def test_a_folder_outside_of_any_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run is here; name a run's folder, or a stage or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("written", ["{", "[]", '{"recipe": {"run": {"name": "a"}, "stage": 1}}'])
def test_a_recipe_that_this_version_cannot_read_is_named_in_one_sentence(run: Path, written: str) -> None:
    (run / "recipe.json").write_text(written)

    with pytest.raises(DataError, match=r"recipe\.json: this version .* use the version that wrote") as error:
        find_checkpoint(run)

    assert "\n" not in str(error.value)


def test_nothing_is_replaced(run: Path) -> None:
    with pytest.raises(RecipeError, match=r"^OUT: .*moved is already there, and nothing is replaced; name a"):
        export_model(run, run)


def test_where_nothing_can_be_written_nothing_is_started(run: Path) -> None:
    seal(run / "0-warm", 2)

    with pytest.raises(RecipeError, match=r"^OUT: nothing can be written into .*recipe\.json \(.*\);"):
        export_model(run, run / "recipe.json" / "model")


def test_the_ranks_ask_nobody(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWN", "7")
    stage = STAGE.model_copy(
        update={
            "roles": {"judge": Role(path="m", kind="generate")},
            "cluster": Cluster(environment={"KNOWN": "...", "LOST": "..."}),
        }
    )
    checkpoint = find_checkpoint(seal(run / "0-warm", 2)).checkpoint
    recipe = Recipe(run=Run(name="a", folder=Path("/runs")), stages=(stage,))

    alone = _for_ranks(Sealed(recipe=recipe, index=0, checkpoint=checkpoint))

    assert alone.roles == {}
    assert alone.cluster.environment == {"KNOWN": "7"}
