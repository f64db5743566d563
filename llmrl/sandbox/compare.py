"""Comparison of a program's result with the expected one: text or plain data, fractions with a tolerance."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, cast

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def same_output(output: str, expected: str, *, tolerance: float) -> bool:
    """Compare line by line, ignoring space at the ends of lines and of the text."""
    lines, wanted = output.rstrip().splitlines(), expected.rstrip().splitlines()
    if len(lines) != len(wanted):
        return False
    return all(_same_line(line, want, tolerance) for line, want in zip(lines, wanted, strict=True))


def same_value(value: Any, expected: Any, *, tolerance: float) -> bool:
    """Compare like ``==``, but a tuple equals a list, as in JSON, and floats may be ``tolerance`` apart.

    Raises:
        RecursionError: they are nested too deeply.
    """
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return _same_items(cast("Sequence[Any]", value), cast("Sequence[Any]", expected), tolerance)
    if isinstance(value, dict) and isinstance(expected, dict):
        mine, wanted = cast("dict[Any, Any]", value), cast("dict[Any, Any]", expected)
        return mine.keys() == wanted.keys() and _same_items(
            [*mine.values()], [wanted[key] for key in mine], tolerance
        )
    if isinstance(expected, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _near(value, expected, tolerance)
    return bool(value == expected)


def _same_items(values: Sequence[Any], expected: Sequence[Any], tolerance: float) -> bool:
    return len(values) == len(expected) and all(
        same_value(value, want, tolerance=tolerance) for value, want in zip(values, expected, strict=True)
    )


def _same_line(line: str, wanted: str, tolerance: float) -> bool:
    if line.rstrip() == wanted.rstrip():
        return True
    words, wants = line.split(), wanted.split()
    if "." not in wanted or len(words) != len(wants):
        return False
    return all(_same_word(word, want, tolerance) for word, want in zip(words, wants, strict=True))


def _same_word(word: str, wanted: str, tolerance: float) -> bool:
    if word == wanted:
        return True
    numbers = "." in wanted and _NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(word)
    return bool(numbers) and _near(float(word), float(wanted), tolerance)


def _near(value: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return False
