"""Problems with the values of a recipe, in sentences: pydantic's errors in the words of this project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import NoneType
from typing import Any, cast, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmrl.errors import did_you_mean, shown
from llmrl.recipe.schema import Recipe, Stage, Table
from llmrl.recipe.tables import MAX_DEPTH, Keys, Tree, leaves
from llmrl.wording import Loc, as_toml, inside, joint_refusal

TOP_KEYS = (*Recipe.model_fields, *(name for name in Stage.model_fields if name != "name"))
"""Keys allowed at the top of a recipe file."""

LARGEST = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem, and the resolved keys that lead to it."""

    keys: Keys
    sentence: str
    missing: bool = False
    """Whether the problem is that a key is absent."""
    unquoted: str = ""
    """Value that would be valid in quotes."""


def value_problems(data: Tree) -> list[Problem]:
    """Problems with values that no key of a recipe can have."""
    return [
        Problem(keys=keys, sentence=sentence)
        for keys, value in leaves(data)
        if (sentence := _impossible(keys, value)) is not None
    ]


def _impossible(keys: Keys, value: object) -> str | None:
    if len(keys) > MAX_DEPTH:
        return f"nested too deeply; at most {MAX_DEPTH} levels are allowed."
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "expected an integer of at most 64 bits, got a larger one."
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    dates = [item for item in items if not isinstance(item, (str, int, float, list, dict))]
    return f"dates and times have no meaning here, got {dates[0]}; put it in quotes." if dates else None


def schema_problems(error: ValidationError, data: Tree) -> Iterator[Problem]:
    """pydantic's errors about ``data`` as problems, without those that only follow from others."""
    # pydantic adds that an array whose elements are all wrong is too short; its elements say it better.
    details = [d for d in error.errors() if d["type"] != "too_short" or not d["input"]]
    for loc, same in groupby(details, key=lambda detail: _place(detail, data)):
        keys, refused = tuple(map(str, loc)), list(same)
        kind, got = refused[0]["type"], refused[0]["input"]
        yield Problem(
            keys=keys,
            sentence=_sentence(refused, keys),
            missing=kind == "missing",
            unquoted=as_toml(got) if kind == "string_type" and not isinstance(got, (dict, list)) else "",
        )


def _place(detail: ErrorDetails, data: Tree) -> Loc:
    """The keys that lead to an error, without the branch of a union."""
    return detail["loc"] if detail["type"] == "missing" else inside(data, detail["loc"])


def _sentence(refused: Sequence[ErrorDetails], keys: Keys) -> str:
    if refused[0]["type"] == "extra_forbidden":
        return f"no key named {shown(keys[-1])}.{did_you_mean(keys[-1], known_keys(keys[:-1]))}"
    if refused[0]["type"] == "missing":
        return " ".join(["this key is missing.", *_text(keys).split()])
    return joint_refusal(refused)


def table_at(keys: Iterable[str]) -> type[Table] | None:
    """The table of the schema at resolved keys such as ``stages 0 model lora``, or None."""
    found: Any = Recipe
    for key in keys:
        found = _below(_table(found), found, key)
    return _table(found)


def _below(table: type[Table] | None, annotation: Any, key: str) -> Any:
    if table is None:  # a tuple of tables by index, or a dict of tables by name
        return next((inner for inner in get_args(annotation) if _table(inner)), None)
    return table.model_fields[key].annotation if key in table.model_fields else None


def _table(annotation: Any) -> type[Table] | None:
    """The annotation itself, or the content of its Optional, if that is a table."""
    inner = get_args(annotation)
    options: list[Any] = [annotation, *(inner if NoneType in inner else ())]
    return next((kind for kind in options if isinstance(kind, type) and issubclass(kind, Table)), None)


def known_keys(keys: Keys) -> tuple[str, ...]:
    """Names of the keys of the table at ``keys``."""
    table = table_at(keys)
    if table is Recipe:
        return TOP_KEYS
    return tuple(table.model_fields) if table else ()


def _text(keys: Keys) -> str:
    """The schema's description of a key."""
    table = table_at(keys[:-1])
    if table is None or keys[-1] not in table.model_fields:
        return ""
    inner = table_at(keys)
    return table.model_fields[keys[-1]].description or (inner.__doc__ if inner else None) or ""
