"""The reference of recipe keys, written by the schema itself: ``docs/recipe-reference.md``."""

from __future__ import annotations

import json
from typing import Any

from llmrl.recipe.schema import Recipe

HEAD = """# Recipe reference

<!-- Written by `llmrl show --reference` from llmrl/recipe/schema.py; change it there. -->

A recipe is a TOML file. It states what differs from the defaults below; a key that is not listed is an error.

- The tables of a stage may stand at the top of the file, where all stages share them, and in `[[stages]]`,
  where one stage says otherwise: tables merge, arrays and single values replace. Without `[[stages]]` there
  is one stage, `train`.
- A stage that chooses another `name` in `[environment]`, `[objective]`, `[credit]`, `[keep]`, `[pairing]` or
  `[correction]`, or another `kind` of a reward or role, leaves the shared `options` behind.
- Each stage after the first goes on from the model of the one before.
- `llmrl train recipe.toml optimizer.lr=1e-4` overrides a key in every stage,
  `stages.<name>.optimizer.lr=1e-4` in one stage, and `prompts.sources.0.rows=10` in an element of an array.
  Keys are TOML's: a name with dots stands in quotes, `'stages."v1.5".optimizer.lr=1e-4'`. Of two overrides of
  one key the later wins; otherwise their order does not matter.
- Paths start in the folder where `llmrl` is started. Only what an environment reads or runs starts where each
  node of Ray was started; on several machines, give those as absolute paths.
"""

COLUMNS = ("| key | type | default | meaning |", "|---|---|---|---|")
NOUNS = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "string"}
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}

Spec = dict[str, Any]
"""One node of the schema's JSON form."""

HELD = ("items", "additionalProperties")
"""Keys under which an array or a table of tables describes its content."""


def render_reference() -> str:
    """Render the whole page in Markdown."""
    schema = Recipe.model_json_schema()
    run: Spec = schema["$defs"]["Run"]
    run["required"].remove("name")  # the loader takes the file's
    run["properties"]["name"]["description"] += " By default the name of the file."
    page = _Page(schema["$defs"])
    page.section("[run]", schema["properties"]["run"])
    page.add("## `plugins`", f"{schema['properties']['plugins']['description']} By default none.")
    stage: dict[str, Spec] = schema["$defs"]["Stage"]["properties"]
    page.add(
        "## `[[stages]]`", "Optional: the stages in order, each with a `name` and any of the tables below."
    )
    for key, spec in stage.items():
        if key != "name":
            page.section(_heading(key, spec), spec)
    return "\n\n".join([HEAD.rstrip(), *page.blocks]) + "\n"


class _Page:
    """The page so far; a table that several keys share is described under the first of them."""

    def __init__(self, tables: dict[str, Spec]) -> None:
        self.blocks: list[str] = []
        self._tables, self._described = tables, dict[str, str]()

    def add(self, *blocks: str) -> None:
        """Add paragraphs, each with an empty line before it."""
        self.blocks += blocks

    def section(self, heading: str, spec: Spec) -> None:
        """Add one table, and the tables inside it."""
        name = _table_name(spec)
        self.add(f"## `{heading}`", spec.get("description") or self._tables[name]["description"])
        if name in self._described:
            self.add(f"Keys as in `{self._described[name]}`.")
            return
        self._described[name] = heading
        self.add(_keys(self._tables[name]))
        for key, inner in self._tables[name]["properties"].items():
            if _table_name(inner):
                self.section(_heading(f"{heading.strip('[]')}.{key}", inner), inner)


def _heading(key: str, spec: Spec) -> str:
    """Header of this table in a recipe file; an array has several."""
    if "additionalProperties" in spec:
        return f"[{key}.<name>]"
    either: list[Spec] = [spec, *spec.get("anyOf", [])]
    return f"[[{key}]]" if any(part.get("type") == "array" for part in either) else f"[{key}]"


def _table_name(spec: Spec) -> str:
    """Name of the table that a key holds, directly or in an array, a dict or an Optional; empty if none."""
    either: list[Spec] = [spec, *spec.get("anyOf", [])]
    inner: list[Spec | bool] = [part[key] for part in either for key in HELD if key in part]
    names = [str(part["$ref"]) for part in (*either, *inner) if isinstance(part, dict) and "$ref" in part]
    return names[0].rpartition("/")[2] if names else ""


def _keys(table: Spec) -> str:
    """The keys of one table, as a Markdown table."""
    required = table.get("required", [])
    rows = [
        f"| `{key}` | {_type(spec)} | {'required' if key in required else _default(spec.get('default'))} | "
        f"{' '.join(str(spec.get('description', '')).replace('``', '`').split())} |"
        for key, spec in table["properties"].items()
    ]
    return "\n".join([*COLUMNS, *rows])


def _default(value: object) -> str:
    return "-" if value is None else f"`{json.dumps(value)}`"


def _type(spec: Spec) -> str:
    match spec:
        case {"anyOf": [inner, *_]}:
            return _type(inner)
        case {"$ref": _}:
            return "table"
        case {"enum": values}:
            return ", ".join(f"`{json.dumps(value)}`" for value in values)
        case {"type": "array", "prefixItems": [first, *rest]}:
            return f"array of {1 + len(rest)} x {_type(first)}"
        case {"type": "array", "items": items}:
            return f"array of {_type(items)}"
        case {"type": "object", "additionalProperties": {"type": kind}}:
            return f"table of {kind}"
        case {"type": "object"}:
            return "table"
        case _:
            noun = "path" if spec.get("format") == "path" else NOUNS[spec["type"]]
            bounds = " and ".join(f"{sign} {spec[name]:g}" for name, sign in BOUNDS.items() if name in spec)
            return f"{noun} {bounds}".rstrip()
