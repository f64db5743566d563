"""What a run makes of the tables of its recipe before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.errors import ModelError, PlacementError
from llmrl.policy.folder import find_folder
from llmrl.policy.worker import PolicyWorker
from llmrl.recipe.schema import Choice, Model, Optimizer, Prompts, Recipe, Role, Run, Source, Stage
from llmrl.run.stage_plan import _found, _found_role

FOLDER = Path("/snapshots/abc")
STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum"),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=1),
)


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


def test_a_rank_that_does_not_share_the_run_folder_says_so(tmp_path: Path) -> None:
    rank = PolicyWorker(STAGE, "cpu", 0)
    (tmp_path / "written").touch()

    rank.find(tmp_path / "written")
    with pytest.raises(PlacementError, match=r"there is no .*/lost, .*run\.folder must be the same folder"):
        rank.find(tmp_path / "lost")
