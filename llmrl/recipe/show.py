"""A resolved recipe for people: every value with its source and meaning, the arithmetic, and differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from llmrl.objectives.algorithm import bundle_of
from llmrl.prompts.example import source_name
from llmrl.recipe.arithmetic import sentences
from llmrl.recipe.load import Loaded
from llmrl.recipe.parts import plugins_of
from llmrl.recipe.schema import Source, Stage, without_secrets
from llmrl.recipe.tables import leaves

STYLES = {"default": "dim", "file": "bold", "override": "bold magenta", "derived": "cyan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One value of the resolved recipe."""

    key: str
    """Key inside its stage, as an override would name it."""
    value: str
    origin: str
    """Origin of the value: default, file, override or derived."""
    note: str = ""
    """Source of a derived value."""


def show(loaded: Loaded) -> RenderableType:
    """Render the whole recipe: the run's values, then stage by stage the values and the arithmetic."""
    parts: list[RenderableType] = [_table(str(loaded.path), run_lines(loaded))]
    for stage in loaded.recipe.stages:
        parts += [Text(), _table(f"stage {stage.name}", stage_lines(loaded, stage)), Text()]
        parts += [Padding(sentence, (0, 0, 0, 2)) for sentence in sentences(stage)]
    return Group(*parts)


def show_difference(one: Loaded, other: Loaded) -> RenderableType:
    """Render only the keys whose values differ, in both recipes."""
    table = Table("key", str(one.path), str(other.path), title="differences", title_justify="left", box=None)
    for key, mine, theirs in differences(one, other):
        table.add_row(Text(key), Text(mine, style="red"), Text(theirs, style="green"))
    return table if table.row_count else Text("No value differs.")


def show_json(loaded: Loaded) -> str:
    """The resolved recipe, its origins and its arithmetic as JSON."""
    return json.dumps(
        {
            "recipe": loaded.recipe.model_dump(mode="json"),
            "origins": dict(loaded.origins),
            "arithmetic": {stage.name: sentences(stage) for stage in loaded.recipe.stages},
        },
        indent=2,
    )


def run_lines(loaded: Loaded) -> list[Line]:
    """The values that apply to all stages."""
    table = loaded.recipe.model_dump(exclude={"stages"})
    flat = {".".join(keys): value for keys, value in leaves(table)}
    return [Line(key=key, value=_toml(value), origin=loaded.origins[key]) for key, value in flat.items()]


def stage_lines(loaded: Loaded, stage: Stage) -> list[Line]:
    """Every value of a stage, with those that its objective decides and every option of its plugins."""
    derived = _derived(stage)
    lines: list[Line] = []
    for keys, value in leaves(_completed(stage)):
        key = ".".join(keys)
        tables = (".".join(keys[:depth]) for depth in range(len(keys), 0, -1))
        note = next((derived[table] for table in tables if table in derived), None)
        origin = "derived" if note else loaded.origins.get(f"stages.{stage.name}.{key}", "default")
        if keys[-1] != "options":  # a plugin without any
            lines.append(Line(key=key, value=_toml(value), origin=origin, note=note or ""))
    return lines


def _completed(stage: Stage) -> dict[str, Any]:
    """The stage as nested tables: sources have names, and every plugin is chosen and has all its options."""
    tables = stage.model_dump()
    tables["cluster"] = stage.cluster.model_dump(mode="json")  # without the values of variables
    bundle = bundle_of(stage)
    tables |= {
        "credit": bundle.credit.model_dump(),
        "keep": bundle.keep.model_dump(),
        "pairing": bundle.pairing.model_dump(),
        "shaping": [one.model_dump() for one in bundle.shaping],
        "correction": bundle.correction.model_dump(),
        "opponent": bundle.opponent.model_dump(),
        "rewards": {name: one.model_dump() for name, one in bundle.rewards.items()},
    }
    tables["rollouts"]["branches"] = bundle.branches
    for table, sources in _sources(stage).items():
        for index, source in enumerate(sources):
            tables[table]["sources"][index]["name"] = source_name(source)
    for keys, plugin in plugins_of(stage).items():
        table: Any = tables
        for key in keys:
            table = table[key]
        options = {field.name for field in fields(plugin) if field.init}
        table["options"] = without_secrets(
            {name: value for name, value in asdict(plugin).items() if name in options}
        )
    return tables


def _derived(stage: Stage) -> dict[str, str]:
    """The source of each value that is filled in here, by key or by table."""
    given = stage.model_dump(include={"credit", "keep", "pairing", "shaping", "correction", "opponent"})
    given |= {f"rewards.{name}": stage.rewards.get(name) for name in bundle_of(stage).rewards}
    given["rollouts.branches"] = stage.rollouts.branches
    notes = {key: f"objective '{stage.objective.name}'" for key, choice in given.items() if choice is None}
    for table, sources in _sources(stage).items():
        for index, source in enumerate(sources):
            if source.name is None:
                notes[f"{table}.sources.{index}.name"] = "task" if source.task else "dataset"
    return notes


def _sources(stage: Stage) -> dict[str, tuple[Source, ...]]:
    return {"prompts": stage.prompts.sources, "evaluation": stage.evaluation.sources}


def differences(one: Loaded, other: Loaded) -> Iterator[tuple[str, str, str]]:
    """Yield key, value in one and value in the other, wherever these differ."""
    mine, theirs = _values(one), _values(other)
    for key in dict.fromkeys([*mine, *theirs]):
        if mine.get(key) != theirs.get(key):
            yield key, mine.get(key, "absent"), theirs.get(key, "absent")


def _values(loaded: Loaded) -> dict[str, str]:
    lines = {line.key: line.value for line in run_lines(loaded)}
    for stage in loaded.recipe.stages:
        lines |= {f"stages.{stage.name}.{line.key}": line.value for line in stage_lines(loaded, stage)}
    return lines


def _toml(value: object) -> str:
    """A value as a recipe would write it; ``-`` where there is none."""
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
        case str() | PurePath():
            return json.dumps(str(value), ensure_ascii=False)
        case list() | tuple():
            return f"[{', '.join(_toml(item) for item in cast('list[object]', value))}]"
        case Mapping():
            return "{}"
        case _:
            return str(value)


def _table(title: str, lines: list[Line]) -> Table:
    columns = [Column(name, overflow="fold") for name in ("key", "value", "from")]
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for line in lines:
        style = STYLES[line.origin]
        source = f"{line.origin}: {line.note}" if line.note else line.origin
        table.add_row(Text(line.key, style=style), Text(line.value, style=style), Text(source, style=style))
    return table
