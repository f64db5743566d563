"""Stages over shared tables, overrides over both, what follows from other keys, and the source of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.load import load_recipe


def test_a_file_without_stages_is_one_stage_called_train(good: Path) -> None:
    recipe = load_recipe(good).recipe

    assert [stage.name for stage in recipe.stages] == ["train"]
    assert recipe.stages[0].optimizer.lr == 0.001
    assert recipe.stages[0].prompts.sources[0].rows == 2000


def test_a_stage_says_only_what_differs_from_the_shared_tables(staged: Path) -> None:
    warm, rl = load_recipe(staged).recipe.stages

    assert (warm.optimizer.steps, warm.optimizer.lr) == (50, 0.001)
    assert (rl.optimizer.steps, rl.optimizer.lr) == (100, 0.001)


def test_another_objective_leaves_the_shared_options_behind(staged: Path) -> None:
    warm, rl = load_recipe(staged).recipe.stages

    assert warm.objective.options == {}
    assert rl.objective.options == {"clip_high": 0.3}


def test_another_kind_of_reward_leaves_its_options_behind(good: Path) -> None:
    good.write_text(
        good.read_text().replace('kind = "number"', 'kind = "number"\noptions = { marker = "#" }')
    )

    same = load_recipe(good, ["rewards.correct.kind=number"]).recipe.stages[0]
    other = load_recipe(good, ["rewards.correct.kind=exact"]).recipe.stages[0]

    assert same.rewards["correct"].options == {"marker": "#"}
    assert other.rewards["correct"].options == {}


def test_another_model_or_dataset_takes_the_place_of_the_first(good: Path) -> None:
    stage = load_recipe(
        good, ["model.path=Qwen/Qwen3-0.6B", "prompts.sources.0.dataset=openai/gsm8k"]
    ).recipe.stages[0]

    assert (stage.model.path, stage.model.config, stage.model.characters) == ("Qwen/Qwen3-0.6B", None, None)
    source = stage.prompts.sources[0]
    assert (source.dataset, source.task, source.options) == ("openai/gsm8k", None, {})


def test_arrays_replace_and_tables_merge(staged: Path) -> None:
    staged.write_text(
        staged.read_text()
        + 'prompts.sources = [{ task = "addition", rows = 10 }]\nmodel.config.hidden_size = 32\n'
    )

    rl = load_recipe(staged).recipe.stages[1]

    assert [source.task for source in rl.prompts.sources] == ["addition"]
    assert rl.prompts.per_step == 32


def test_a_later_stage_goes_on_with_the_first_stages_model(tmp_path: Path, staged: Path) -> None:
    text = staged.read_text()
    table = text[: text.index("[prompts]")]
    own = 'model.config = { model_type = "qwen3" }\nmodel.characters = "0123456789+=,#"\n'
    path = tmp_path / "own.toml"
    path.write_text(text.replace(table, "").replace('name = "warm"\n', f'name = "warm"\n{own}'))

    loaded = load_recipe(path)

    assert loaded.recipe.stages[1].model.config == {"model_type": "qwen3"}
    assert loaded.origins["stages.rl.model.characters"] == "derived"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optimizer.lr=1e-6", 1e-6),
        ("optimizer.lr = 3", 3.0),
        ("optimizer.lr=0x10", 16.0),
    ],
)
def test_the_value_of_an_override_is_toml(good: Path, override: str, value: float) -> None:
    assert load_recipe(good, [override]).recipe.stages[0].optimizer.lr == value


def test_what_is_not_toml_is_a_string(good: Path) -> None:
    recipe = load_recipe(good, ["cluster.address=auto", "run.name=a-b"]).recipe
    assert (recipe.run.name, recipe.stages[0].cluster.address) == ("a-b", "auto")


def test_an_override_holds_for_every_stage_unless_it_names_one(staged: Path) -> None:
    loaded = load_recipe(staged, ["optimizer.lr=2e-3", "stages.rl.optimizer.lr=4e-3", "optimizer.steps=7"])

    assert [stage.optimizer.lr for stage in loaded.recipe.stages] == [0.002, 0.004]
    assert [stage.optimizer.steps for stage in loaded.recipe.stages] == [7, 7]


def test_the_later_of_two_overrides_wins(staged: Path) -> None:
    loaded = load_recipe(staged, ["stages.rl.optimizer.lr=4e-3", "optimizer.lr=2e-3"])

    assert [stage.optimizer.lr for stage in loaded.recipe.stages] == [0.002, 0.002]


@pytest.mark.parametrize("turn", [1, -1])
def test_another_objective_or_task_drops_the_options_of_the_file_and_not_those_of_an_override(
    good: Path, turn: int
) -> None:
    given = [
        "objective.options.clip_high=0.4",
        "objective.name=dapo",
        "rewards.correct.options={ marker = '=' }",
        "rewards.correct.kind=number",
        "prompts.sources.0.options.digits_max=2",
        "prompts.sources.0.task=addition",
        "evaluation.sources.0.rows=7",
        "evaluation.sources=[{ task = 'chain', rows = 9 }]",
    ]

    stage = load_recipe(good, given[::turn]).recipe.stages[0]

    assert (stage.objective.name, stage.objective.options) == ("dapo", {"clip_high": 0.4})
    source, held_out = stage.prompts.sources[0], stage.evaluation.sources[0]
    assert (source.task, source.options) == ("addition", {"digits_max": 2})
    assert (held_out.task, held_out.rows) == ("chain", 7)
    assert (stage.rewards["correct"].kind, stage.rewards["correct"].options) == ("number", {"marker": "="})


@pytest.mark.parametrize("override", ["#x=1", "[a]\nb=1", "[a]\n[b]\nc=1", "# comment"])
def test_toml_that_is_no_key_is_no_override(good: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="expected key=value"):
        load_recipe(good, [override])


def test_a_name_with_dots_stands_in_quotes(staged: Path) -> None:
    staged.write_text(staged.read_text().replace('"rl"', '"v1.5"'))

    loaded = load_recipe(staged, ['stages."v1.5".optimizer.lr=4e-3', "stages.warm . optimizer.steps = 7"])

    assert [stage.optimizer.lr for stage in loaded.recipe.stages] == [0.001, 0.004]
    assert loaded.recipe.stages[0].optimizer.steps == 7
    assert loaded.origins["stages.v1.5.optimizer.lr"] == "override"
    with pytest.raises(RecipeError) as refused:
        load_recipe(staged, ["stages.v1.5.optimizer.lr=4e-3"])
    assert str(refused.value).endswith("Quote a name with dots: 'stages.\"v1.5\".<key>=value'.")


def test_an_override_reaches_into_an_array(good: Path) -> None:
    source = load_recipe(good, ["prompts.sources.0.rows=10"]).recipe.stages[0].prompts.sources[0]

    assert (source.rows, source.task, source.options) == (10, "digit_sum", {"digits_min": 3})


def test_an_override_of_a_whole_array_replaces_it(good: Path) -> None:
    stage = load_recipe(good, ["evaluation.k=[1, 4]", "evaluation.sources=[]"]).recipe.stages[0]

    assert (stage.evaluation.k, stage.evaluation.sources) == ((1, 4), ())


def test_every_value_has_its_source(staged: Path) -> None:
    origins = load_recipe(staged, ["stages.rl.engines.max_lag=2", "plugins=[]"]).origins

    assert origins["run.name"] == "derived"
    assert origins["run.seed"] == "default"
    assert origins["plugins"] == "override"
    assert origins["stages.warm.name"] == "file"
    assert origins["stages.warm.optimizer.steps"] == "file"
    assert origins["stages.warm.prompts.sources.0.rows"] == "file"
    assert origins["stages.warm.engines.max_lag"] == "default"
    assert origins["stages.rl.engines.max_lag"] == "override"
    assert origins["stages.rl.evaluation.reward"] == "derived"


def test_the_name_of_the_only_stage_is_a_default(good: Path) -> None:
    assert load_recipe(good).origins["stages.train.name"] == "default"


def test_the_run_is_named_after_its_file(tmp_path: Path, good: Path) -> None:
    path = tmp_path / "my recipe (2).toml"
    path.write_text(good.read_text())

    assert load_recipe(path).recipe.run.name == "my-recipe-2"


def test_values_that_only_look_like_numbers_are_strings(good: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"optimizer\.lr \(from an override\): expected a number, got '1e-6'\.$"
    ):
        load_recipe(good, ["optimizer.lr='1e-6'"])


def test_a_wrong_override_is_named_as_it_was_given(staged: Path) -> None:
    staged.write_text(staged.read_text() + "optimizer.lr = 5e-3\n")

    with pytest.raises(
        RecipeError, match=r"toml: optimizer\.lr \(from an override\): expected a number, got 'x'\.$"
    ):
        load_recipe(staged, ["optimizer.lr=x"])
    with pytest.raises(
        RecipeError, match=r"toml: stages\.rl\.optimizer\.lr \(from an override\): expected a number"
    ):
        load_recipe(staged, ["stages.rl.optimizer.lr=x"])


def test_a_line_break_in_an_override_adds_no_key(good: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"optimizer\.steps \(from an override\): expected an integer, got "
    ):
        load_recipe(good, ["optimizer.steps=3\nplugins = ['os']"])


def test_who_shares_devices_is_never_behind_unless_the_file_says_otherwise(good: Path) -> None:
    shared = load_recipe(good, ["cluster.placement=shared"])
    other = load_recipe(good, ["cluster.placement=shared", "engines.max_lag=2"])

    assert shared.recipe.stages[0].engines.max_lag == 0
    assert shared.origins["stages.train.engines.max_lag"] == "derived"
    assert other.recipe.stages[0].engines.max_lag == 2  # for check_recipe to refuse
