"""Whatever key is misspelled, wherever it stands, the right one is suggested."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Run, Stage, Table


def every_key(table: type[Table], path: str) -> Iterator[str]:
    """Each key below a table as an override names it; a role is ``judge``, a source has index 0."""
    for name, field in table.model_fields.items():
        if path or name != "name":
            yield f"{path}{name}"
        inner: list[Any] = [field.annotation, *get_args(field.annotation)]
        for option in inner:
            if isinstance(option, type) and option is not NoneType and issubclass(option, Table):
                index = {"rewards": "correct.", "roles": "judge.", "sources": "0."}.get(name, "")
                yield from every_key(option, f"{path}{name}.{index}")


KEYS = [*every_key(Run, "run."), *every_key(Stage, "")]


def test_the_schema_is_walked_to_its_leaves() -> None:
    assert len(KEYS) > 90
    assert {"model.lora.rank", "prompts.sources.0.rows", "rewards.correct.weight", "run.seed"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelled_key_of_the_schema_gets_the_right_suggestion(key: str, good: Path) -> None:
    table, _, name = key.rpartition(".")
    typo = name + name[-1]

    with pytest.raises(RecipeError) as error:
        load_recipe(good, [f"{key}{key[-1]}=0"])

    where = f"{table}.{typo}" if table else typo
    sentence = f"{good}: {where} (from an override): no key named '{typo}'. Did you mean '{name}'? Known: "
    assert any(line.startswith(sentence) for line in str(error.value).splitlines())


def test_a_misspelled_line_of_a_file_gets_the_right_suggestion(good: Path) -> None:
    lines = good.read_text().splitlines()
    at = [index for index, line in enumerate(lines) if re.match(r"\w+ = ", line)]

    for index in at:
        name = lines[index].partition(" ")[0]
        typo = name + name[-1]
        wrong = typo + lines[index].removeprefix(name)
        good.write_text("\n".join([*lines[:index], wrong, *lines[index + 1 :]]))
        with pytest.raises(
            RecipeError, match=rf"{typo}: no key named '{typo}'\. Did you mean '{name}'\? Known: "
        ):
            load_recipe(good)

    assert len(at) == 21


def test_optimized_python_refuses_the_same_recipe(good: Path) -> None:
    good.write_text(good.read_text().replace("per_prompt = 8", "per_prompt = 1"))
    code = (
        "import sys\nfrom llmrl.recipe.checks import check_recipe\n"
        "from llmrl.recipe.load import load_recipe\n"
        "check_recipe(load_recipe(sys.argv[1]))"
    )

    ran = subprocess.run(
        [sys.executable, "-O", "-c", code, str(good)], capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.returncode == 1
    assert "rollouts.per_prompt: expected at least 2" in ran.stderr
