"""The settings of a run for people: every key with its value, its meaning, and whether it was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llmrl.recipe.schema import Recipe, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of the recipe."""

    key: str
    """Dotted key, as an override would name it."""
    value: str
    """Value as JSON."""
    chosen: bool
    """Whether the value differs from the default, or there is none."""
    text: str = ""
    """Meaning of the key."""


def settings(recipe: Mapping[str, Any]) -> dict[str, list[Setting]]:
    """Settings of the run as a whole and of each stage, by a title.

    A recipe that this version of llmrl cannot read, for example of an older run, is shown without marks.
    """
    try:
        read = Recipe.model_validate(recipe)
    except ValidationError:
        return {"recipe": [Setting(key=key, value=value, chosen=False) for key, value in _flat(recipe, "")]}
    found = {"run": [*_keys(read.run, "run."), _plugins(read)]}
    for index, stage in enumerate(read.stages):
        found[f"{index}-{stage.name}"] = list(_keys(stage, ""))
    return found


def _plugins(recipe: Recipe) -> Setting:
    text = _plain(Recipe.model_fields["plugins"].description)
    return Setting(key="plugins", value=_json(recipe.plugins), chosen=bool(recipe.plugins), text=text)


def _keys(table: Table, prefix: str) -> Iterator[Setting]:
    for name, value in table:
        field = type(table).model_fields[name]
        parts = list(_tables(value, prefix + name))
        if parts:
            for part, part_prefix in parts:
                yield from _keys(part, f"{part_prefix}.")
        else:
            chosen = field.is_required() or value != field.get_default(call_default_factory=True)
            yield Setting(
                key=prefix + name, value=_json(value), chosen=chosen, text=_plain(field.description)
            )


def _tables(value: object, key: str) -> Iterator[tuple[Table, str]]:
    """The tables behind a key: one, several in a list, or several by name."""
    match value:
        case Table():
            yield value, key
        case tuple():
            for index, item in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                if isinstance(item, Table):
                    yield item, f"{key}.{index}"
        case dict():
            for name, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                if isinstance(item, Table):
                    yield item, f"{key}.{name}"
        case _:
            return


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for name, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                yield from _flat(item, f"{key}.{name}" if key else str(name))  # pyright: ignore[reportUnknownArgumentType]
        case _:
            yield key, _json(value)


def _plain(description: str | None) -> str:
    """The description of a key without its markup."""
    return (description or "").replace("``", "")


def _json(value: object) -> str:
    return json.dumps(value, default=str)
