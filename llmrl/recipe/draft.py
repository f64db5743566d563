"""A recipe before validation: shared tables under each stage's own, overrides on top, and their origins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from llmrl.errors import RecipeError, did_you_mean, shown
from llmrl.recipe.schema import Stage
from llmrl.recipe.tables import Keys, Tree, Value, changed, leaves, merged, read_toml

Origin = Literal["default", "file", "override", "derived"]

STAGE_TABLES = tuple(name for name in Stage.model_fields if name != "name")
"""Tables that stages share when they stand at the top of the file."""

PURPOSES = ("held-out", "parity")
"""Names under which the evaluation and the parity gate ask engines; training uses the stage's name."""

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SAFE_NAME_TEXT = "at most 64 letters, digits, dots, dashes and underscores that begin with a letter or digit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The tables of a recipe, its stages by name, not yet checked against the schema."""

    data: Tree
    own: Mapping[str, Tree]
    """Tables that each stage sets itself."""
    origins: Mapping[str, Origin]
    """Origins by address, such as ``stages.train.optimizer.lr``; values without one are defaults."""

    @property
    def stages(self) -> Tree:
        """The tables of each stage by name, with the shared tables merged in."""
        return cast("Tree", self.data["stages"])

    def address(self, keys: Keys) -> str:
        """The dotted address, which names stages, for resolved keys, which count them."""
        if keys[0] != "stages" or len(keys) == 1:
            return ".".join(keys)
        return ".".join(("stages", list(self.stages)[int(keys[1])], *keys[2:]))


def read_draft(path: Path, overrides: Sequence[str]) -> Draft:
    """The draft of a recipe file.

    Raises:
        RecipeError: the file is not TOML, its stages lack proper names, or an override fits nowhere.
    """
    draft = _from_file(read_toml(path))
    # The whole before its parts: another objective drops the options of the file, not those of an override.
    for text in sorted(overrides, key=_rank):
        draft = _overridden(draft, text)
    return _named(draft, path)


def _from_file(file: Tree) -> Draft:
    own = _own_tables(file)
    shared: Tree = {key: value for key, value in file.items() if key in STAGE_TABLES}
    rest: Tree = {key: value for key, value in file.items() if key not in STAGE_TABLES}
    stages: Tree = {name: merged(shared, tables) for name, tables in own.items()}
    data: Tree = {**rest, "stages": stages}
    origins: dict[str, Origin] = {".".join(keys): "file" for keys, _ in leaves(data)}
    if "stages" not in file:
        origins["stages.train.name"] = "default"
    return Draft(data=data, own=own, origins=origins)


def _own_tables(file: Tree) -> dict[str, Tree]:
    stages = file.get("stages", [{"name": "train"}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError("stages: expected [[stages]] tables, one for each stage, in order.")
    tables = cast("list[Tree]", stages)
    problems = list(_name_problems([stage.get("name") for stage in tables]))
    if problems:
        raise RecipeError("\n".join(problems))
    return {str(stage["name"]): stage for stage in tables}


def _name_problems(names: Sequence[Value | None]) -> Iterator[str]:
    for index, name in enumerate(names):
        if name is None:
            yield f"stages[{index}]: name: this key is missing. Each stage needs a name of its own."
        elif not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
            yield f"stages[{index}]: name: expected {SAFE_NAME_TEXT}, got {shown(name)}."
        elif name in PURPOSES:
            yield (
                f"stages[{index}]: name: expected any but {' and '.join(map(shown, PURPOSES))}, under which "
                f"every stage asks its engines for other things, got {shown(name)}; give it another name."
            )
        elif name in names[:index]:
            yield f"stages[{index}]: name: {shown(name)} is already the name of stages[{names.index(name)}]."


def _rank(text: str) -> tuple[int, bool]:
    """Sort key: shorter paths first, not counting the stage's name (with or without one, the later override
    wins); among equals, what a table is of before its ``options``."""
    keys, _ = _parsed(text)
    return len(keys) - 2 if keys[0] == "stages" else len(keys), keys[-1] == "options"


def _overridden(draft: Draft, text: str) -> Draft:
    """The draft with one ``a.b.c=value``; without a stage's name it applies to every stage."""
    keys, value = _parsed(text)
    places = [("stages", name, *keys) for name in draft.stages] if keys[0] in STAGE_TABLES else [keys]
    if keys[0] == "stages":
        _check_stage(draft, keys, text)
    data, origins = draft.data, dict(draft.origins)
    for place in places:
        try:
            data = cast("Tree", changed(data, place, value))
        except RecipeError as error:
            shared = place != keys and len(draft.stages) > 1
            stage, one = (f"stage '{place[1]}': ", for_one_stage(keys)) if shared else ("", "")
            raise RecipeError(f"override {shown(text)}: {stage}{error}{one}") from None
        origins.update((".".join((*place, *inner)), "override") for inner, _ in leaves(value))
    # A replaced array takes the keys of its old elements with it.
    present = {".".join(keys) for keys, _ in leaves(data)}
    kept: dict[str, Origin] = {at: origin for at, origin in origins.items() if at in present}
    return Draft(data=data, own=draft.own, origins=kept)


def _check_stage(draft: Draft, keys: Keys, text: str) -> None:
    if len(keys) < 3 or keys[1] not in draft.stages:
        hint = did_you_mean("".join(keys[1:2]), draft.stages)
        dotted = next((name for name in draft.stages if "." in name), None)
        quotes = f" Quote a name with dots: 'stages.\"{dotted}\".<key>=value'." if dotted else ""
        raise RecipeError(f"override {shown(text)}: expected stages.<name>.<key>=value.{hint}{quotes}")
    if keys[2] == "name":
        # A stage's values are found by its name, and so is its folder.
        raise RecipeError(f"override {shown(text)}: a stage gets its name in the recipe; change it there.")


def for_one_stage(keys: Sequence[str]) -> str:
    """The tail of a message about an override of all stages that does not fit one of them."""
    return f" To override it in one stage alone, write stages.<name>.{'.'.join(keys)}=value."


def _parsed(text: str) -> tuple[Keys, Value]:
    key, equals, value = text.partition("=")
    keys = _as_keys(key)
    if not equals or not keys or not all(keys):
        raise RecipeError(f"override {shown(text)}: expected key=value, such as optimizer.lr=1e-4.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RecipeError(f"override {shown(text)}: the value is not UTF-8.")
    return keys, _as_value(value.strip())


def _as_keys(text: str) -> Keys:
    """Parse a dotted TOML key, where quotes hold a name with dots together; empty if it is invalid."""
    keys = list[str]()
    if "\n" in text or text.lstrip()[:1] in ("#", "["):  # TOML, but not a key
        return ()
    try:
        inner: object = tomllib.loads(f"{text} = 0")
    except (ValueError, RecursionError):
        return ()
    while isinstance(inner, dict):
        ((key, inner),) = cast("dict[str, object]", inner).items()
        keys.append(key)
    return tuple(keys)


def _as_value(text: str) -> Value:
    """The text as a TOML value, or else as a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return cast("Value", table["value"]) if table.keys() == {"value"} else text


def _named(draft: Draft, path: Path) -> Draft:
    """The draft with a name for the run, by default the file's."""
    run = draft.data.get("run", {})
    if not isinstance(run, dict) or "name" in run:
        return draft
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-")[:64] or "run"
    named: Tree = {**run, "name": name}
    return Draft(
        data={**draft.data, "run": named}, own=draft.own, origins={**draft.origins, "run.name": "derived"}
    )
