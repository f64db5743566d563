"""Curves stay small and honest: every step counts, gaps stay gaps, extremes stay visible."""

from __future__ import annotations

import math

import pytest

from llmrl.report.curves import Curve, curves, shares
from llmrl.report.journal import StepEntry


def steps(values: list[float]) -> list[StepEntry]:
    return [
        StepEntry(stage="s", step=step, version=step, seconds=step, metrics={"reward/mean": value})
        for step, value in enumerate(values, start=1)
    ]


def test_few_steps_are_drawn_as_they_are() -> None:
    drawn = curves(steps([1.0, 2.0, 4.0]), points=3)

    assert (drawn.first, drawn.last) == ([1, 2, 3], [1, 2, 3])
    assert drawn.metrics["reward/mean"] == Curve(mean=[1.0, 2.0, 4.0])


def test_many_steps_are_averaged_with_their_extremes() -> None:
    drawn = curves(steps([1.0, 3.0, 2.0, 10.0, 5.0]), points=2)

    assert (drawn.first, drawn.last) == ([1, 3], [2, 5])
    assert drawn.metrics["reward/mean"] == Curve(mean=[2.0, 5.6667], low=[1.0, 2.0], high=[3.0, 10.0])


def test_unknown_values_are_left_out_of_means_and_leave_gaps() -> None:
    drawn = curves(steps([math.nan, 3.0, math.nan, math.nan]), points=2)

    assert drawn.metrics["reward/mean"] == Curve(mean=[3.0, None], low=[3.0, None], high=[3.0, None])


def test_a_metric_of_some_steps_only_has_gaps_elsewhere() -> None:
    first, second = steps([1.0, 2.0])
    second = StepEntry(stage="s", step=2, version=2, seconds=2, metrics={"lag/max": 1.0})

    drawn = curves([first, second], points=2)

    assert drawn.metrics["reward/mean"].mean == [1.0, None]
    assert drawn.metrics["lag/max"].mean == [None, 1.0]


def test_no_steps_are_no_points() -> None:
    assert curves([]).first == []


@pytest.mark.parametrize(
    ("sizes", "granted"),
    [([10, 10_000, 10], [10, 480, 10]), ([60, 320], [60, 320]), ([1000, 1000], [250, 250]), ([0, 7], [0, 7])],
)
def test_short_stages_keep_every_step(sizes: list[int], granted: list[int]) -> None:
    assert shares(sizes, 500) == granted
