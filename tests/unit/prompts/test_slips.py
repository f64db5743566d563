"""An imperfect teacher: its working is wrong as often as it is told to be, the verifier's answer never is."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from llmrl.prompts.tasks import DigitSum


def steps_of(response: str) -> list[tuple[int, int, int]]:
    return [(int(a), int(b), int(c)) for a, b, c in re.findall(r"(\d+)\+(\d+)=(\d+)", response)]


def test_a_quarter_of_the_steps_is_wrong_by_one_or_two_and_the_next_builds_on_it() -> None:
    problems = [DigitSum(slips=0.25).make(number) for number in range(3000)]
    errors = [c - a - b for problem in problems for a, b, c in steps_of(problem.response)]

    assert set(errors) == {0, 1, 2}
    assert sum(error > 0 for error in errors) / len(errors) == pytest.approx(0.25, abs=0.02)
    for problem in problems:
        steps = steps_of(problem.response)
        assert all(before[2] == after[0] for before, after in pairwise(steps))
        assert problem.response.endswith(f"#{steps[-1][2]}")


def test_the_answer_is_right_whatever_the_teacher_says() -> None:
    problems = [DigitSum(slips=1.0).make(number) for number in range(500)]

    assert all(int(p.answer) == sum(map(int, p.prompt.removesuffix("="))) for p in problems)
    assert not any(p.response.endswith(f"#{p.answer}") for p in problems)


def test_a_share_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slips must lie between 0 and 1, got 1\.5"):
        DigitSum(slips=1.5)
