"""Nested TOML tables: read from a file, laid over each other, changed at a dotted key, and flattened."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from llmrl.errors import RecipeError, shown

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value]"
Tree: TypeAlias = "dict[str, Value]"

MAX_BYTES = 1_000_000
MAX_DEPTH = 32

Keys = tuple[str, ...]

CHOICES = ("environment", "objective", "credit", "keep", "pairing", "correction")
CHOICE_REPLACES: Mapping[str, Keys] = {"name": ("options",)}
KIND_REPLACES: Mapping[str, Keys] = {"kind": ("options",)}
SOURCE_REPLACES: Mapping[str, Keys] = {
    "task": ("options", "dataset", "split", "fields"),
    "dataset": ("options", "task"),
}
MODEL_REPLACES: Mapping[str, Keys] = {"path": ("config", "characters"), "config": ("path",)}


def read_toml(path: Path) -> Tree:
    """The tables of a recipe file.

    Raises:
        RecipeError: no such file, over 1 MB, not UTF-8, not TOML (with its line), or nested too deeply.
            The caller adds the path to the message.
    """
    try:
        return tomllib.loads(_text(_bytes(path)))
    except RecursionError:
        raise RecipeError(f"nested too deeply; at most {MAX_DEPTH} levels are allowed.") from None
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).rstrip(")").partition(" (at ")
        raise RecipeError(f"{place}: not valid TOML: {problem[:1].lower()}{problem[1:]}.") from None
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"not valid TOML: {error}.") from None


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise RecipeError("is a folder; give the recipe file inside it.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"no such recipe file; looked for {shown(str(path.absolute()), 300)}.") from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"larger than {MAX_BYTES:,} bytes; this is not a recipe.")
    return data


def _text(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError("encoded as UTF-16; save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise RecipeError(
            f"line {line}: byte 0x{byte:02x} at offset {error.start} is not UTF-8; save the file as UTF-8."
        ) from None


def merged(base: Value | None, patch: Value, where: Keys = ()) -> Value:
    """``patch`` over ``base``: tables merge, arrays and scalars replace.

    A key that changes the meaning of its neighbours drops them: another ``name`` of an objective its
    ``options``, a ``model.path`` the ``model.config``.
    """
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        return patch
    changed_keys = [key for key in _replaces(where) if key in patch and patch[key] != base.get(key)]
    dropped = {old for key in changed_keys for old in _replaces(where)[key]}
    kept = {key: value for key, value in base.items() if key not in dropped}
    return kept | {key: merged(kept.get(key), value, (*where, key)) for key, value in patch.items()}


def _replaces(where: Keys) -> Mapping[str, Keys]:
    match where:
        case ("stages", _, *below):
            return _replaces(tuple(below))
        case (choice,) if choice in CHOICES:
            return CHOICE_REPLACES
        case ("rewards" | "roles", _):
            return KIND_REPLACES
        case (_, "sources", _):
            return SOURCE_REPLACES
        case ("model",):
            return MODEL_REPLACES
        case _:
            return {}


def changed(base: Value | None, keys: Sequence[str], value: Value, where: Keys = ()) -> Value:
    """``base`` with ``value`` merged in at the path ``keys``; an index addresses an element of an array.

    Raises:
        RecipeError: an index into an array is not a number or is out of range.
    """
    if not keys:
        return merged(base, value, where)
    key, rest = keys[0], keys[1:]
    if isinstance(base, list):
        at = _index(base, key)
        return [*base[:at], changed(base[at], rest, value, (*where, key)), *base[at + 1 :]]
    held = base.get(key) if isinstance(base, dict) else None
    return merged(base, {key: changed(held, rest, value, (*where, key))}, where)


def _index(base: list[Value], key: str) -> int:
    if not base:
        raise RecipeError(f"the array is empty, so it has no element {shown(key)}.")
    if not re.fullmatch(r"[0-9]{1,4}", key) or int(key) >= len(base):
        raise RecipeError(f"expected an index below {len(base)}, the length of the array, got {shown(key)}.")
    return int(key)


def leaves(value: object, where: Keys = ()) -> Iterator[tuple[Keys, object]]:
    """Every scalar, array of scalars and empty table, with the keys that lead to it."""
    inner = _inner(value) if len(where) <= MAX_DEPTH else dict[str, object]()
    for key, item in inner.items():
        yield from leaves(item, (*where, key))
    if not inner:
        yield where, value


def _inner(value: object) -> dict[str, object]:
    """The items of a table, or of an array of tables."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()
    if not any(isinstance(item, Mapping) for item in items):
        return {}
    return {str(index): item for index, item in enumerate(items)}
