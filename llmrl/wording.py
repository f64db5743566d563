"""pydantic's errors in the words of this project: for keys of a recipe and options of its plugins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmrl.errors import did_you_mean, shown

Context = Mapping[str, Any]

Loc = tuple[int | str, ...]
"""Keys and indices that lead to a value."""

# pydantic's error types that a recipe can meet, and what the value should have been.
EXPECTED: Mapping[str, Callable[[Context], str]] = {
    "int_type": lambda _: "an integer",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "string_type": lambda _: "a string",
    "tuple_type": lambda _: "an array",
    "dict_type": lambda _: "a table",
    "model_type": lambda _: "a table",
    "greater_than": lambda c: f"a number > {c['gt']:g}",
    "greater_than_equal": lambda c: f"a number >= {c['ge']:g}",
    "less_than": lambda c: f"a number < {c['lt']:g}",
    "less_than_equal": lambda c: f"a number <= {c['le']:g}",
    "too_short": lambda c: f"at least {c['min_length']} element{'s' * (c['min_length'] > 1)}",
    "too_long": lambda c: f"at most {c['max_length']} elements",
    "literal_error": lambda c: f"one of {c['expected']}",
}


def refusal(detail: ErrorDetails) -> str:
    """Sentence, to follow its key, about a value that is wrong."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        # A class that refuses its options may say itself what it got.
        text = str(context["error"]).rstrip(".")
        return f"{text}." if " got " in text else f"{text}, got {as_toml(detail['input'])}."
    if kind not in EXPECTED:
        return f"{detail['msg']}, got {as_toml(detail['input'])}."
    if kind == "too_short":
        return f"expected {EXPECTED[kind](context)}, got {context['actual_length']}."
    hint = _nearest(detail["input"], context) if kind == "literal_error" else ""
    return f"expected {EXPECTED[kind](context)}, got {as_toml(detail['input'])}.{hint}"


def first_refusal(error: ValidationError, data: object) -> tuple[Loc, str]:
    """The first error in ``data``: its keys, and the sentence that follows them."""
    details = error.errors()
    where = inside(data, details[0]["loc"])
    return where, joint_refusal([detail for detail in details if inside(data, detail["loc"]) == where])


def joint_refusal(details: Sequence[ErrorDetails]) -> str:
    """Sentence about one value that every branch of a union refuses."""
    wanted = [EXPECTED[d["type"]](d.get("ctx", {})) for d in details if d["type"] in EXPECTED]
    if len(details) > 1 and wanted:
        return f"expected {' or '.join(dict.fromkeys(wanted))}, got {as_toml(details[0]['input'])}."
    return refusal(details[0])


def inside(data: object, loc: Loc) -> Loc:
    """The part of ``loc`` that leads into the data; pydantic appends which branch of a union refused."""
    for depth, key in enumerate(loc):
        if isinstance(data, dict) and key in data:
            data = cast("dict[object, object]", data)[key]
        elif isinstance(data, (list, tuple)) and isinstance(key, int):
            data = cast("Sequence[object]", data)[key]
        else:
            return loc[:depth]
    return loc


def as_toml(value: object) -> str:
    """A value as the user may have written it, quoted, escaped and short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        try:
            return json.dumps(value)[:80]
        except (TypeError, ValueError):
            return "a nested value"
    return shown(value)


def _nearest(got: object, context: Context) -> str:
    known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
    hint, _, _ = did_you_mean(str(got), known).partition(" Known:")
    return hint
