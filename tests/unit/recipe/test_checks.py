"""What the checks accept; what they refuse is in the corpus."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmrl.errors import PluginError, RecipeError
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[3]


def test_a_good_recipe_passes(good: Path, staged: Path) -> None:
    check_recipe(load_recipe(good))
    check_recipe(load_recipe(staged))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_recipe_passes(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Where its first lines have a file put that it reads.
    (tmp_path / "harmless-base").mkdir()
    (tmp_path / "harmless-base" / "test.jsonl.gz").touch()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    # Where each is started, its plugins are found: at the root, or beside it.
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.syspath_prepend(ROOT)

    check_recipe(load_recipe(path))


def test_demonstrations_need_no_reward_and_no_group(good: Path) -> None:
    text = good.read_text().replace('[rewards.correct]\nkind = "number"\nweight = 1.0\n', "")
    good.write_text(text[: text.index("[evaluation]")])

    check_recipe(load_recipe(good, ["objective.name=sft", "rollouts.per_prompt=1"]))


def test_other_options_make_another_task_so_rows_may_meet(good: Path) -> None:
    check_recipe(
        load_recipe(good, ["evaluation.sources.0.skip=0", "evaluation.sources.0.options.digits_min=4"])
    )


def test_one_file_under_two_paths_is_one_file(good: Path) -> None:
    data = good.with_name("data.jsonl")
    data.write_text('{"question": "1+1=", "answer": "2"}\n')
    paths = [f"prompts.sources.0.dataset={data}", f"evaluation.sources.0.dataset={data.parent}/./data.jsonl"]

    with pytest.raises(
        RecipeError, match=r"rows 2000 to 2199 of .* are held out, but prompts\.sources\.0 trains on"
    ):
        check_recipe(load_recipe(good, [*paths, "prompts.sources.0.rows=2001"]))


def test_what_is_wrong_in_every_stage_is_said_once(staged: Path) -> None:
    with pytest.raises(RecipeError) as error:
        check_recipe(load_recipe(staged, ["rollouts.max_tokens=999"]))

    assert str(error.value).count("model.context_tokens") == 1
    assert "stages[" not in str(error.value)


def test_a_run_folder_inside_a_file_is_refused(good: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"run\.folder: '.*good\.toml' is a file, so no folder can be made in it\."
    ):
        check_recipe(load_recipe(good, [f"run.folder={good}/runs"]))


def test_a_model_folder_without_a_config_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.path: .* has no config\.json; give a folder that"):
        check_recipe(load_recipe(good, [f"model.path={tmp_path}"]))


def test_a_plugin_of_the_recipe_is_known_to_the_checks(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shouting_rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "from llmrl.rewards import Sample, reward\n\n"
        "@reward('shouting')\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Shouting:\n"
        "    reads_answer = False\n"
        "    def __call__(self, sample: Sample) -> float:\n"
        "        return float(sample.response.isupper())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    check_recipe(load_recipe(good, ['plugins=["shouting_rewards"]', "rewards.correct.kind=shouting"]))

    assert "shouting_rewards" in sys.modules


def test_a_plugin_that_is_not_there_names_itself(good: Path) -> None:
    with pytest.raises(
        PluginError, match=r"plugins: 'no_such_losses' cannot be imported: ModuleNotFoundError"
    ):
        check_recipe(load_recipe(good, ['plugins=["no_such_losses"]']))
