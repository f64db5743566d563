"""Which verdicts are remembered, and for how long."""

from __future__ import annotations

from llmrl.rewards.scoring.known import KnownVerdicts
from llmrl.rewards.scoring.part import Part

ONE = {"a": Part(status="score", value=1.0, note="n", seconds=2.0)}
FREE = {"a": Part(status="score", value=1.0, note="n", seconds=0.0)}
ABSTAINED = {"a": Part(status="abstain", note="no opinion")}


def test_a_verdict_comes_back_whole_and_at_no_cost() -> None:
    known = KnownVerdicts(2)
    known.keep(b"x", ONE)
    known.keep(b"y", ABSTAINED)

    assert (known.find(b"x"), known.find(b"y"), known.find(b"z")) == (FREE, ABSTAINED, None)


def test_an_error_is_forgotten_with_all_that_was_said_beside_it() -> None:
    known = KnownVerdicts(2)
    known.keep(b"x", {**ONE, "b": Part(status="error", note="raised")})

    assert known.find(b"x") is None


def test_what_has_not_been_asked_for_the_longest_time_goes_first() -> None:
    known = KnownVerdicts(2)
    known.keep(b"x", ONE)
    known.keep(b"y", ONE)
    known.find(b"x")
    known.keep(b"z", ONE)

    assert (known.find(b"x"), known.find(b"y"), known.find(b"z")) == (FREE, None, FREE)
