"""The model card: the recipe that made the model, without what nobody else may read."""

from __future__ import annotations

from pathlib import Path

from llmrl.cluster.connection import process_environment
from llmrl.recipe.schema import Choice, Cluster, Model, Optimizer, Prompts, Recipe, Run, Source, Stage
from llmrl.report.card import write_card


def test_a_card_names_the_environment_variables_and_keeps_their_values(tmp_path: Path) -> None:
    stage = Stage(
        model=Model(path="m"),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=7),
        cluster=Cluster(environment={"WANDB_API_KEY": "hunter2"}),
        environment=Choice(name="program", options={"command": ["a"], "variables": {"KEY": "hunter2"}}),
    )
    recipe = Recipe(run=Run(name="r"), stages=(stage,))

    text = write_card(tmp_path, recipe, stage, None, None, steps=7).read_text()

    assert '"WANDB_API_KEY": "..."' in text
    assert '"KEY": "..."' in text
    assert stage.environment is not None
    assert stage.environment.options["variables"] == {"KEY": "hunter2"}
    assert '"steps": 7' in text
    assert "`grpo`, 7 optimizer steps" in text
    assert "hunter2" not in text


def test_what_a_run_writes_down_keeps_the_values_and_its_processes_get_them() -> None:
    cluster = Cluster(environment={"HF_SECRET": "hunter2"})

    assert cluster.model_dump(mode="json")["environment"] == {"HF_SECRET": "..."}
    assert process_environment(cluster, device="cpu")["HF_SECRET"] == "hunter2"
