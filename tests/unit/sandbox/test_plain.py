"""Plain data: what passes, as what it arrives, and what is refused."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.sandbox.plain import LONGEST, decode, encode


class Point(NamedTuple):
    x: int
    y: int


class Color(IntEnum):
    RED = 3


class Lie(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def sent(value: object) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES)
def test_what_is_sent_arrives_equal_and_of_the_same_type(value: object) -> None:
    arrived = sent(value)

    assert (arrived, type(arrived)) == (value, type(value))


def test_numbers_beyond_json_arrive_exactly() -> None:
    assert sent(2**53 + 1) == 2**53 + 1
    assert sent(-(10**5000)) == -(10**5000)
    assert math.isnan(sent(float("nan")))
    assert sent(float("-inf")) == float("-inf")
    assert math.copysign(1.0, sent(-0.0)) == -1.0


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Point(1, 2), (1, 2)),
        (Color.RED, 3),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
        (range(1, 7, 2), range(1, 7, 2)),
    ],
)
def test_a_subclass_arrives_as_what_it_is_built_on(value: object, arrives: object) -> None:
    arrived = sent(value)

    assert (arrived, type(arrived)) == (arrives, type(arrives))


def test_an_object_cannot_bring_its_own_equality() -> None:
    assert Lie(3) == 5
    assert sent(Lie(3)) != 5
    assert sent([Lie(3)]) == [3]


def test_iterators_arrive_as_iterators_over_what_they_gave() -> None:
    assert next(sent(iter([1, 2]))) == 1
    assert list(sent(x * x for x in range(4))) == [0, 1, 4, 9]
    assert sorted(sent({"a": 1}.keys())) == ["a"]
    assert sent(iter([1])) != [1]


@pytest.mark.parametrize("value", [object(), print, int, iter(int, 1), (x for x in range(LONGEST + 1))])
def test_what_is_no_plain_data_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not plain data"):
        encode(value)


def test_what_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(RecursionError):
        encode(value)


@pytest.mark.parametrize(
    "tree",
    [
        *({}, {"int": "1", "set": []}, {"int": "x"}, {"object": 1}, {"set": [[1]]}, {"dict": [[1]]}),
        *({"range": [0, 1, 0]}, {"complex": "ab"}, {"tuple": 3}, {"bytes": 5}, {"dict": 7}),
    ],
)
def test_a_tree_that_nobody_encodes_is_refused(tree: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(tree)
