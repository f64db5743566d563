"""``json``: is the response JSON that conforms to a schema?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from llmrl.errors import shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?```", re.DOTALL)


@reward("json")
@dataclass(frozen=True, slots=True, kw_only=True)
class Json:
    """1 if the response holds JSON that a schema accepts, else 0.

    JSON is read as in RFC 8259: no NaN, no comments, no name twice in an object. JSON Schema is checked by
    ``jsonschema``, in the dialect that ``$schema`` names, 2020-12 by default.
    """

    schema: dict[str, Any] = field(default_factory=dict[str, Any])
    """JSON Schema; the default accepts any JSON. References must stay inside it."""
    where: Literal["whole", "fenced"] = "whole"
    """``whole``: the response is the JSON. ``fenced``: the last code fence holds it, if there is one."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415  only for recipes that use it
        from jsonschema.validators import validator_for  # noqa: PLC0415

        outside = [each for each in _references(self.schema) if not each.startswith("#")]
        if outside:
            raise ValueError(f"schema must refer to itself only, with '#/...', got {shown(outside[0])}")
        try:
            validator_for(self.schema).check_schema(self.schema)
        except SchemaError as error:
            raise ValueError(f"schema is not a JSON Schema: {error.message}") from None

    def __call__(self, sample: Sample) -> Score:
        from jsonschema.validators import validator_for  # noqa: PLC0415  see above

        text = sample.final_text
        fences = _FENCE.findall(text) if self.where == "fenced" else []
        try:
            value = read_json(fences[-1] if fences else text)
        except (ValueError, RecursionError) as error:
            return Score(0.0, f"no JSON: {error}")
        try:
            first = next(validator_for(self.schema)(self.schema).iter_errors(value), None)
        except RecursionError:
            return Score(0.0, "nested too deeply")
        return Score(1.0) if first is None else Score(0.0, f"{first.json_path}: {first.message}")


def read_json(text: str) -> Any:
    """Parse a text as JSON.

    Raises:
        ValueError: it is not JSON; NaN, Infinity and a name twice in an object are refused.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)} stands twice in an object")
    return value


def _references(schema: object) -> Iterator[str]:
    """Targets of ``$ref`` and its like, at any depth."""
    if isinstance(schema, dict):
        entries: dict[str, Any] = schema  # pyright: ignore[reportUnknownVariableType]  it comes from TOML
        for name, value in entries.items():
            if name in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:  # pyright: ignore[reportUnknownVariableType]  see above
            yield from _references(value)  # pyright: ignore[reportUnknownArgumentType]
