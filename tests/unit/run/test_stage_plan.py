"""What a run makes of the tables of its recipe before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.errors import CheckpointError, ModelError, PlacementError
from llmrl.policy.folder import find_folder
from llmrl.policy.worker import PolicyWorker
from llmrl.recipe.schema import (
    Choice,
    Evaluation,
    Model,
    Optimizer,
    Policy,
    Prompts,
    Recipe,
    Reward,
    Role,
    Run,
    Source,
    Stage,
)
from llmrl.run.checkpoint import Checkpoint, RunState
from llmrl.run.ledger import Snapshot
from llmrl.run.same_run import check_same_run
from llmrl.run.stage_plan import _found, _found_role, plan_stage

FOLDER = Path("/snapshots/abc")
STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=1),
)
SMALL = STAGE.model_copy(
    update={
        "model": Model(config={"model_type": "qwen3", "hidden_size": 64}, characters="0123456789+=,#"),
        "prompts": Prompts(sources=(Source(task="digit_sum", rows=9),)),
    }
)
"""With a model and rows of its own: a stage that can be planned."""


@pytest.mark.parametrize(
    "table",
    [
        Model(path="org/model", trust_remote_code="org/model"),
        Role(kind="classifier", path="org/model", trust_remote_code="org/model"),
    ],
)
def test_who_trusts_the_code_of_a_model_trusts_it_where_it_was_found(table: Model | Role) -> None:
    found = _found(table, FOLDER)

    assert found.path == found.trust_remote_code == str(FOLDER)


@pytest.mark.parametrize("trusted", [None, "org/other"])
def test_no_other_code_is_trusted_because_of_a_folder(trusted: str | None) -> None:
    assert _found(Model(path="org/model", trust_remote_code=trusted), FOLDER).trust_remote_code is None


def test_nobody_trusts_the_code_of_a_model_that_was_built_here() -> None:
    built = Model(config={"model_type": "qwen3"}, characters="ab")

    assert not built.trusts_code
    assert _found(built, FOLDER).trust_remote_code is None


def test_folders_mean_the_same_to_processes_that_start_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()

    for written in ("runs", "~/runs"):
        assert Recipe(run=Run(name="a", folder=Path(written)), stages=(STAGE,)).folder == tmp_path / "runs/a"
    assert find_folder(Model(path="~/model")) == tmp_path / "model"


def test_a_role_cannot_read_more_tokens_than_its_model_has_positions_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_positions": 8}')
    recipe = Recipe(run=Run(name="a"), stages=(STAGE,))
    role = Role(kind="classify", path=str(tmp_path), context_tokens=9)

    with pytest.raises(ModelError, match=r"roles\.judge\.context_tokens is 9, .* at most 8 tokens; lower it"):
        _found_role(recipe, "judge", role)
    assert _found_role(recipe, "judge", role.model_copy(update={"context_tokens": 8})).path == str(tmp_path)


def test_another_seed_or_other_held_out_rows_are_another_run(tmp_path: Path) -> None:
    rows = Evaluation(sources=(Source(task="digit_sum", skip=9, rows=4),))
    stage = SMALL.model_copy(update={"evaluation": rows, "rewards": {"exact": Reward(kind="exact")}})
    other = rows.model_copy(update={"prompts": 3})
    recipe = Recipe(run=Run(name="a", folder=tmp_path), stages=(stage,))
    plan = plan_stage(recipe, 0)
    again = plan_stage(recipe.model_copy(update={"run": Run(name="a", folder=tmp_path, seed=1)}), 0)
    fewer = plan_stage(
        recipe.model_copy(update={"stages": (stage.model_copy(update={"evaluation": other}),)}), 0
    )
    before = RunState(
        step=1,
        ledger=Snapshot(cursor=1, unfinished=()),
        memory={},
        data=plan.fingerprint,
        tables=plan.tables,
    )
    checkpoint = Checkpoint(path=tmp_path, state=before)

    check_same_run(checkpoint, data=plan.fingerprint, tables=plan.tables, online=False, last=True)
    with pytest.raises(CheckpointError, match=r"^run\.seed: 1 in the recipe, but .* was made with 0"):
        check_same_run(checkpoint, data=again.fingerprint, tables=again.tables, online=False, last=True)
    with pytest.raises(CheckpointError, match="the prompts differ"):
        check_same_run(checkpoint, data=fewer.fingerprint, tables=plan.tables, online=False, last=True)


def test_a_stage_whose_model_another_one_has_gone_on_from_is_not_the_last_one(tmp_path: Path) -> None:
    recipe = Recipe(run=Run(name="a", folder=tmp_path), stages=(SMALL,))
    (recipe.folder / "1-more").mkdir(parents=True)

    assert plan_stage(recipe, 0).last
    (recipe.folder / "1-more" / "metrics.jsonl").touch()
    assert not plan_stage(recipe, 0).last  # although the recipe has no other one any more


def test_a_stage_that_is_done_and_kept_no_checkpoint_does_not_begin_again(tmp_path: Path) -> None:
    plan = plan_stage(Recipe(run=Run(name="a", folder=tmp_path), stages=(SMALL,)), 0)
    assert plan.newest() is None

    (plan.folder / "model").mkdir(parents=True)
    (plan.folder / "model" / "README.md").touch()

    with pytest.raises(
        CheckpointError, match=r"^optimizer\.steps: .*0-train has ended at another step, and no"
    ):
        plan.newest()


def test_a_stage_that_is_done_is_held_to_what_its_checkpoint_still_says(tmp_path: Path) -> None:
    done, other = (
        plan_stage(Recipe(run=Run(name="a", folder=tmp_path, seed=seed), stages=(SMALL,)), 0)
        for seed in (0, 1)
    )
    writing = done.checkpoints.begin(1)
    (writing / "rng-0.npz").write_bytes(b"random")
    ledger = Snapshot(cursor=1, unfinished=())
    state = RunState(step=1, ledger=ledger, memory={}, data=done.fingerprint, tables=done.tables)
    path = done.checkpoints.commit(writing, state, written=[writing / "rng-0.npz"])
    (path / "rng-0.npz").unlink()  # to free the disk

    done.check_done()
    with pytest.raises(CheckpointError, match=r"^run\.seed: 1 in the recipe, but .* was made with 0"):
        other.check_done()

    (path / "state.json").unlink()
    other.check_done()


def test_runs_that_share_a_disk_keep_their_states_apart(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    policy = Policy(zero_stage=3, offload="nvme", nvme_folder=disk)
    stage = SMALL.model_copy(update={"policy": policy})
    runs = (
        Run(name="a", folder=tmp_path),
        Run(name="b", folder=tmp_path),
        Run(name="a", folder=tmp_path / "c"),
    )

    plans = [plan_stage(Recipe(run=run, stages=(stage,)), 0) for run in runs]

    folders = [plan.stage.policy.nvme_folder for plan in plans]
    assert folders == [Path(f"{disk}{plan.folder}") for plan in plans]
    assert len(set(folders)) == 3
    assert plans[0].tables["policy"] == plans[1].tables["policy"]  # as it was written: a run may be moved


def test_a_rank_that_does_not_share_the_run_folder_says_so(tmp_path: Path) -> None:
    rank = PolicyWorker(STAGE, "cpu", 0)
    (tmp_path / "written").touch()

    rank.find(tmp_path / "written")
    with pytest.raises(
        PlacementError, match=r"there is no .*/lost, .*run\.folder, and OUT .* the same folder"
    ):
        rank.find(tmp_path / "lost")
