"""Plain data: the values that may pass between a jail and the judge, as trees that JSON can hold.

Never pickles: what is read back is built from exact built-in types, whatever the sender says it is. A
subclass arrives as the type it is built on, and an iterator as an iterator over what it would have given.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from itertools import islice
from typing import Any, cast

LONGEST = 100_000
"""Most items taken from an iterator; one with more is refused."""
_EXACT = 2**53
"""Largest number that every JSON reader reads as it was written."""


def encode(value: object) -> Any:
    """Encode a value as a tree.

    Raises:
        ValueError: it is not plain data: an object of a class of its own, a function, an endless iterator.
        RecursionError: it contains itself, or is nested too deeply.
    """
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case float():
            return float(value)
        case int():
            return int(value) if -_EXACT < value < _EXACT else {"int": hex(value)}
        case complex():
            return {"complex": [value.real, value.imag]}
        case bytes() | bytearray():
            return {"bytes": value.hex()}
        case _:
            return _encode_container(value)


def decode(tree: Any) -> Any:
    """Decode the value of a tree.

    Raises:
        ValueError: it is not a tree of plain data.
        RecursionError: it is nested too deeply.
    """
    if isinstance(tree, list):
        return [decode(item) for item in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    try:
        ((kind, content),) = cast("dict[str, Any]", tree).items()
        return _decode_tagged(kind, content)
    except TypeError as error:
        raise ValueError(f"not a tree of plain data: {error}") from None


def _encode_container(value: object) -> Any:
    match value:
        case list():
            return [encode(item) for item in cast("list[object]", value)]
        case tuple():
            return {"tuple": [encode(item) for item in cast("tuple[object, ...]", value)]}
        case dict():
            pairs = cast("dict[object, object]", value).items()
            return {"dict": [[encode(key), encode(item)] for key, item in pairs]}
        case set():
            return {"set": [encode(item) for item in cast("set[object]", value)]}
        case frozenset():
            return {"frozenset": [encode(item) for item in cast("frozenset[object]", value)]}
        case range():
            return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
        case Iterator() | KeysView() | ValuesView() | ItemsView():
            return {"iterator": _encode_items(cast("Iterable[object]", value))}
        case _:
            raise ValueError(f"an object of type {type(value).__name__} is not plain data")


def _encode_items(value: Iterable[object]) -> list[Any]:
    items = [encode(item) for item in islice(value, LONGEST + 1)]
    if len(items) > LONGEST:
        raise ValueError(f"an iterator with more than {LONGEST} items is not plain data")
    return items


def _decode_tagged(kind: str, content: Any) -> Any:
    match kind:
        case "int":
            return int(content, 16)
        case "complex":
            return complex(*content)
        case "bytes":
            return bytes.fromhex(content)
        case "tuple":
            return tuple(decode(content))
        case "dict":
            return {decode(key): decode(item) for key, item in content}
        case "set":
            return set(decode(content))
        case "frozenset":
            return frozenset(decode(content))
        case "range":
            return range(*decode(content))
        case "iterator":
            return iter(decode(content))
        case _:
            raise ValueError(f"no kind of plain data is called {kind!r}")
