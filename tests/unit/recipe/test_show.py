"""The resolved recipe as people see it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Recipe
from llmrl.recipe.show import differences, show, show_difference, show_json, stage_lines


def printed(what: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_every_value_is_shown_with_its_source(good: Path) -> None:
    text = printed(show(load_recipe(good, ["engines.max_lag=2"])))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}

    assert rows["run.name"] == ['"good"', "derived"]
    assert rows["optimizer.lr"] == ["0.001", "file"]
    assert rows["optimizer.eps"] == ["1e-08", "default"]
    assert rows["engines.max_lag"] == ["2", "override"]
    assert rows["objective.options.clip_high"] == ["0.3", "file"]
    assert rows["objective.options.clip_low"] == ["0.2", "default"]
    assert rows["credit.name"] == ['"group"', "derived:", "objective", "'grpo'"]
    assert rows["prompts.sources.0.name"] == ['"digit_sum"', "derived:", "task"]
    assert rows["model.path"] == ["-", "default"]


def test_a_part_that_the_recipe_names_is_not_derived(good: Path) -> None:
    loaded = load_recipe(good, ["correction={ name = 'masked', options = { low = 0.4 } }"])

    lines = {line.key: (line.value, line.origin) for line in stage_lines(loaded, loaded.recipe.stages[0])}

    assert lines["correction.name"] == ('"masked"', "override")
    assert lines["correction.options.low"] == ("0.4", "override")
    assert lines["correction.options.high"] == ("5", "default")


def test_a_replaced_source_leaves_no_origin_behind(good: Path) -> None:
    loaded = load_recipe(good, ["evaluation.sources=[{ task = 'digit_sum', rows = 7 }]"])

    lines = {line.key: (line.value, line.origin) for line in stage_lines(loaded, loaded.recipe.stages[0])}

    assert lines["evaluation.sources.0.rows"] == ("7", "override")
    assert lines["evaluation.sources.0.skip"] == ("0", "default")


def test_the_arithmetic_stands_below_its_stage(staged: Path) -> None:
    text = printed(show(load_recipe(staged)))

    assert text.index("stage warm") < text.index("32 demonstrations a step") < text.index("stage rl")
    assert text.index("stage rl") < text.index("32 prompts x 8 responses = 256 responses a step")


def test_keys_are_folded_on_a_narrow_screen_but_never_cut(good: Path) -> None:
    text = printed(show(load_recipe(good)), width=40)

    assert "\u2026" not in text


def test_markup_in_a_value_is_shown_as_it_is(good: Path) -> None:
    assert '"[bold]{prompt}"' in printed(
        show(load_recipe(good, ["prompts.sources.0.template='[bold]{prompt}'"]))
    )


def test_a_difference_lists_only_what_differs(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(good.read_text().replace("lr = 1e-3", "lr = 2e-3").replace('"grpo"', '"grpo" # same'))
    one, two = load_recipe(good), load_recipe(other)

    assert list(differences(one, two)) == [
        ("run.name", '"good"', '"other"'),
        ("stages.train.optimizer.lr", "0.001", "0.002"),
    ]
    assert "optimizer.lr" in printed(show_difference(one, two))
    assert printed(show_difference(one, one)) == "No value differs.\n"


def test_a_part_on_one_side_only_is_absent_on_the_other(good: Path) -> None:
    plain, other = (
        load_recipe(good),
        load_recipe(good, ["keep.name=varied", "credit.options={}", "credit.name=group"]),
    )

    assert ("stages.train.keep.name", '"all"', '"varied"') in list(differences(plain, other))
    assert not [key for key, _, _ in differences(plain, other) if "credit" in key]


def test_json_holds_the_recipe_that_ran(good: Path) -> None:
    loaded = load_recipe(good)

    told = json.loads(show_json(loaded))

    assert Recipe.model_validate_json(json.dumps(told["recipe"])) == loaded.recipe
    assert told["origins"]["run.name"] == "derived"
    assert told["arithmetic"]["train"][0].startswith("32 prompts x 8 responses = 256 responses")


def test_values_of_environment_variables_are_not_shown(good: Path) -> None:
    loaded = load_recipe(good, ["cluster.environment.WANDB_API_KEY=hunter2"])

    assert "WANDB_API_KEY" in printed(show(loaded))
    assert "hunter2" not in printed(show(loaded)) + show_json(loaded)


def test_values_of_a_programs_variables_are_not_shown_either(good: Path) -> None:
    program = 'environment={ name = "program", options = { command = ["true"], variables = { KEY = "%s" } } }'
    one, other = load_recipe(good, [program % "hunter2"]), load_recipe(good, [program % "hunter3"])

    text = printed(show(one)) + show_json(one) + printed(show_difference(load_recipe(good), other))

    assert "environment.options.variables.KEY" in text
    assert "hunter" not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [("0.001", "0.001"), ("1e-6", "1e-06"), ("0.00012345678", "0.00012345678"), ("0.99999999", "0.99999999")],
)
def test_a_number_is_shown_so_that_it_reads_back_equal(value: str, shown: str, good: Path) -> None:
    loaded = load_recipe(good, [f"optimizer.lr={value}"])

    lines = {line.key: line.value for line in stage_lines(loaded, loaded.recipe.stages[0])}

    assert lines["optimizer.lr"] == shown
    assert float(lines["optimizer.lr"]) == loaded.recipe.stages[0].optimizer.lr


def test_a_difference_in_the_seventh_digit_is_a_difference(good: Path) -> None:
    one, other = (load_recipe(good, [f"optimizer.lr={value}"]) for value in ("0.001", "0.0010000001"))

    assert list(differences(one, other)) == [("stages.train.optimizer.lr", "0.001", "0.0010000001")]
