"""When an answer is the expected one."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.sandbox.compare import same_output, same_value


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("5\n", "5", True),
        ("5  \n6\n\n\n", "5\n6", True),
        ("5\r\n6\r\n", "5\n6\n", True),
        (" 5", "5", False),
        ("5 6", "5\n6", False),
        ("5\n6", "5 6", False),
        ("5", "5\n6", False),
        ("", "5", False),
        ("", "\n", True),
        ("0.3333333", "0.33333333333", True),
        ("0.334", "0.33333333333", False),
        ("1 0.5000001", "1 0.5", True),
        ("2 0.5", "1 0.5", False),
        ("yes 0.5", "yes 0.50", True),
        ("5.0", "5", False),
        ("5", "5.0", True),
        ("1e-9", "0.0", True),
        ("nan", "0.5", False),
        ("inf", "0.5", False),
        ("0_5.0", "5.0", False),
        ("1e999", "1.0", False),
        ("\u0665.0", "5.0", False),
    ],
)
def test_output_is_compared_line_by_line_and_fractions_by_value(
    output: str, expected: str, same: bool
) -> None:
    assert same_output(output, expected, tolerance=1e-6) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (5, 5, True),
        (5.0, 5, True),
        (5, 5.0, True),
        (True, 1, True),
        (True, 1.0, True),
        ("5", 5, False),
        (None, 0, False),
        ((1, [2]), [1, [2]], True),
        ([1, 2], [1, 2, 3], False),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        ({"a": 1}, {"b": 1}, False),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (float("nan"), float("nan"), False),
        (10**400, 1.5, False),
        ({1, 2}, [1, 2], False),
        ("ab", ["a", "b"], False),
    ],
)
def test_values_are_compared_as_python_does_but_for_tuples_and_fractions(
    value: Any, expected: Any, same: bool
) -> None:
    assert same_value(value, expected, tolerance=1e-9) is same
