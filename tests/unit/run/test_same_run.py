"""A run goes on as what it was, and with whatever says only where and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import CheckpointError
from llmrl.recipe.schema import (
    Choice,
    Engines,
    Model,
    Optimizer,
    Policy,
    Prompts,
    Reward,
    Role,
    Scoring,
    Source,
    Stage,
    Table,
)
from llmrl.recipe.tables import Tree, Value
from llmrl.run.checkpoint import Checkpoint, RunState
from llmrl.run.ledger import Snapshot
from llmrl.run.same_run import check_same_run, deciding

STAGE = Stage(
    model=Model(path="small"),
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    rewards={"judged": Reward(kind="judge", options={"role": "judge"})},
    roles={"judge": Role(path="judge", kind="generate")},
    objective=Choice(name="grpo"),
    optimizer=Optimizer(steps=3, lr=1e-3),
)


def tables(**changed: Table) -> Tree:
    return {"run": {"seed": 0}, **deciding(STAGE.model_copy(update=changed))}


def checkpoint(made_with: Tree) -> Checkpoint:
    state = RunState(step=3, ledger=Snapshot(cursor=9, unfinished=()), memory={}, data="d1", tables=made_with)
    return Checkpoint(path=Path("checkpoints/step-000003"), state=state)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "optimizer",
            Optimizer(steps=3, lr=0.002),
            r"optimizer\.lr: 0\.002 in the recipe, .*step-000003 was made with 0\.001; restore it",
        ),
        (
            "objective",
            Choice(name="grpo", options={"clip_low": 0.1}),
            r"objective\.options\.clip_low: 0\.1 in",
        ),
        ("objective", Choice(name="sft"), r"objective\.name: 'sft' .* was made with 'grpo'"),
        ("engines", Engines(max_lag=3), r"engines\.max_lag: 3 .* was made with 1"),
    ],
)
def test_another_recipe_is_refused_by_the_first_key_that_differs(key: str, value: Table, words: str) -> None:
    check_same_run(checkpoint(tables()), data="d1", tables=tables(), online=True, last=False)
    with pytest.raises(CheckpointError, match=words):
        check_same_run(
            checkpoint(tables()), data="d1", tables=tables(**{key: value}), online=True, last=False
        )


def test_other_data_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the prompts differ from those of checkpoints/step-000003"):
        check_same_run(checkpoint(tables()), data="d2", tables=tables(), online=True, last=False)


def test_rows_that_a_smaller_microbatch_leaves_out_are_explained_where_it_reads_them() -> None:
    made = checkpoint(tables())
    with pytest.raises(
        CheckpointError,
        match=r"restore the dataset or policy\.tokens_per_microbatch, which leaves out longer",
    ):
        check_same_run(made, data="d2", tables=tables(), online=False, last=False)
    with pytest.raises(CheckpointError, match="restore the dataset, or use --fresh"):
        check_same_run(made, data="d2", tables=tables(), online=True, last=False)


def test_what_helps_where_memory_or_a_judge_failed_may_change() -> None:
    role = STAGE.roles["judge"].model_copy(update={"count": 2, "tensor_parallel": 2})
    now: dict[str, Any] = {
        "model": Model(path="small", gradient_checkpointing=True),
        "engines": Engines(
            count=2, max_sequences=64, kv_cache_mib=512, gpu_memory_utilization=0.5, eager=True
        ),
        "scoring": Scoring(processes=4, deadline_s=60, max_error_rate=0.5, cache=100, check_answers=False),
        "roles": {"judge": role},
        "policy": Policy(tokens_per_microbatch=2048),
        "optimizer": STAGE.optimizer.model_copy(update={"max_bad_steps": 9}),
    }

    check_same_run(checkpoint(tables()), data="d1", tables=tables(**now), online=True, last=False)


def test_a_key_that_an_older_version_did_not_know_had_its_default() -> None:
    older: Tree = {**tables(), "optimizer": {"steps": 3, "lr": 1e-3}, "scoring": {"processes": 7}}
    optimizer = STAGE.optimizer.model_copy(update={"minibatches": 2})

    check_same_run(checkpoint(older), data="d1", tables=tables(), online=True, last=False)
    with pytest.raises(CheckpointError, match=r"optimizer\.minibatches: 2 .* was made with 1"):
        check_same_run(
            checkpoint(older), data="d1", tables=tables(optimizer=optimizer), online=True, last=False
        )


@pytest.mark.parametrize(("key", "value"), [("momentum", 0.9), ("epochs", "all")])
def test_a_key_that_this_version_does_not_know_is_named_with_what_helps(key: str, value: Value) -> None:
    other: Tree = {**tables(), "optimizer": {"steps": 3, "lr": 1e-3, key: value}}

    with pytest.raises(
        CheckpointError, match=rf"^optimizer\.{key}: .*step-000003 is of another version of llmrl"
    ):
        check_same_run(checkpoint(other), data="d1", tables=tables(), online=True, last=False)


def test_a_stage_that_was_cut_short_at_its_checkpoint_may_get_successors() -> None:
    made = checkpoint(tables(optimizer=STAGE.optimizer.model_copy(update={"steps": 9})))

    check_same_run(made, data="d1", tables=tables(), online=True, last=False)


@pytest.mark.parametrize("steps", [3, 4, 300])
def test_the_last_stage_may_end_elsewhere_than_it_was_to(steps: int) -> None:
    optimizer = STAGE.optimizer.model_copy(update={"steps": steps})

    check_same_run(
        checkpoint(tables()), data="d1", tables=tables(optimizer=optimizer), online=True, last=True
    )


@pytest.mark.parametrize(
    ("optimizer", "last", "words"),
    [
        ({"steps": 2}, True, r"^optimizer\.steps: 2 in the recipe, but .*step-000003 has taken 3; give at"),
        ({"steps": 9}, False, r"^optimizer\.steps: 9 in the recipe, but .* made with 3; restore it"),
        ({"steps": 9, "lr": 1.0}, True, r"^optimizer\.lr: 1.0 in the recipe"),
    ],
)
def test_steps_that_were_taken_or_that_another_stage_went_on_from_stay(
    optimizer: dict[str, float], last: bool, words: str
) -> None:
    now = tables(optimizer=STAGE.optimizer.model_copy(update=optimizer))

    with pytest.raises(CheckpointError, match=words):
        check_same_run(checkpoint(tables()), data="d1", tables=now, online=True, last=last)


def test_a_learning_rate_that_falls_towards_the_end_keeps_it() -> None:
    falling = STAGE.optimizer.model_copy(update={"schedule": "cosine"})
    longer = falling.model_copy(update={"steps": 9})
    made = checkpoint(tables(optimizer=falling))

    with pytest.raises(CheckpointError, match=r"^optimizer\.steps: 9 in the recipe"):
        check_same_run(made, data="d1", tables=tables(optimizer=longer), online=True, last=True)
