"""The plan's agreement with published steps is what docs/plan.md says, and does not get worse."""

from __future__ import annotations

from pathlib import Path

from tests.speed.published import WITHIN, compare, table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "plan.md"


def test_every_published_step_of_known_lengths_is_planned_within_a_third() -> None:
    rows = [row for row in compare() if not row.derived]

    assert len(rows) == 19
    assert WITHIN == 0.35
    assert [(row.what, row.machines) for row in rows if not row.holds] == []


def test_the_table_in_the_docs_is_the_table_that_the_command_prints() -> None:
    assert table(compare()) in PAGE.read_text("utf-8")
