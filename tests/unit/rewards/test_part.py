"""What becomes of whatever a reward returns or raises, and how parts make a judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from llmrl.rewards import Sample, Score
from llmrl.rewards.scoring.part import LONGEST_NOTE, Part, combine, evaluate

SAMPLE = Sample(prompt="", response="", answer=None, tokens=0, finished=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    value: object
    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float | None | Score:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value  # pyright: ignore[reportReturnType]  plugins return anything


@pytest.mark.parametrize(
    ("returned", "value"),
    [(1, 1.0), (0.5, 0.5), (True, 1.0), (False, 0.0), (np.float32(0.5), 0.5), (Score(-1.0, "x"), -1.0)],
)
def test_finite_numbers_are_scores(returned: object, value: float) -> None:
    part = evaluate(Returns(value=returned), SAMPLE)

    assert (part.status, part.value) == ("score", value)


@pytest.mark.parametrize("returned", [None, Score(None)])
def test_none_abstains(returned: object) -> None:
    part = evaluate(Returns(value=returned), SAMPLE)

    assert (part.status, part.value) == ("abstain", None)


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ("1.0", "'1.0'"),
        ([1.0], "[1.0]"),
        (1j, "1j"),
        (Score(float("nan")), "Score(value=nan"),
    ],
)
def test_anything_else_is_an_error_that_says_what_it_was(returned: object, shown: str) -> None:
    part = evaluate(Returns(value=returned), SAMPLE)

    assert (part.status, part.value) == ("error", None)
    assert part.note.startswith("returned ")
    assert part.note.endswith("; a finite number, a bool, None or a Score is allowed")
    assert shown in part.note


@pytest.mark.parametrize(
    ("raised", "note"),
    [
        (ZeroDivisionError("division by zero"), "raised ZeroDivisionError: division by zero ("),
        (SystemExit(0), "raised SystemExit: 0 ("),
        (KeyboardInterrupt(), "raised KeyboardInterrupt ("),
        (GeneratorExit(), "raised GeneratorExit ("),
    ],
)
def test_an_exception_is_an_error_with_its_place(raised: BaseException, note: str) -> None:
    part = evaluate(Returns(value=raised), SAMPLE)

    assert part.status == "error"
    assert part.note.startswith(note)
    assert "test_part.py, line " in part.note


def test_a_number_too_large_for_a_float_is_an_error() -> None:
    assert "OverflowError" in evaluate(Returns(value=10**400), SAMPLE).note


def test_a_note_is_cut() -> None:
    assert len(evaluate(Returns(value=Score(1.0, "x" * 10_000)), SAMPLE).note) == LONGEST_NOTE


def test_the_reward_is_the_weighted_sum_of_the_parts() -> None:
    parts = {
        "a": Part(status="score", value=1.0, seconds=0.5),
        "b": Part(status="score", value=0.5, seconds=0.25),
    }

    judgement = combine(parts, {"a": 2.0, "b": -1.0})

    assert (judgement.status, judgement.reward, judgement.seconds) == ("score", 1.5, 0.75)
    assert judgement.parts == {"a": 1.0, "b": 0.5}


def test_any_abstention_abstains_and_keeps_the_other_parts() -> None:
    parts = {"a": Part(status="score", value=1.0), "b": Part(status="abstain", note="abstained: too short")}

    judgement = combine(parts, {"a": 1.0, "b": 0.0})

    assert (judgement.status, judgement.reward) == ("abstain", None)
    assert (judgement.parts, judgement.note) == ({"a": 1.0}, "rewards.b abstained: too short")


def test_any_error_is_an_error_even_with_weight_0() -> None:
    parts = {"a": Part(status="abstain"), "b": Part(status="error", note="raised KeyError")}

    judgement = combine(parts, {"a": 1.0, "b": 0.0})

    assert (judgement.status, judgement.reward, judgement.note) == (
        "error",
        None,
        "rewards.b raised KeyError",
    )


def test_a_sum_that_overflows_is_an_error() -> None:
    judgement = combine({"a": Part(status="score", value=1e308)}, {"a": 10.0})

    assert (judgement.status, judgement.note) == ("error", "rewards: the weighted sum inf is not finite")
