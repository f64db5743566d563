"""The ledger knows what is owed, whatever happened in between."""

from __future__ import annotations

import json
from pathlib import Path

from llmrl.run.ledger import Ledger, Snapshot


def test_a_resumed_ledger_hands_out_what_was_unfinished_before_anything_new(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    drawn = [ledger.draw() for _ in range(6)]
    ledger.trained([0, 2], step=0)
    ledger.dropped(3, reason="rewards equal")
    snapshot = Snapshot.from_json(json.loads(json.dumps(ledger.snapshot().to_json())))
    ledger.close()

    resumed = Ledger(tmp_path / "ledger.jsonl", snapshot)

    assert drawn == [0, 1, 2, 3, 4, 5]
    assert snapshot == Snapshot(cursor=6, unfinished=(1, 4, 5))
    assert [resumed.draw() for _ in range(5)] == [1, 4, 5, 6, 7]
    resumed.close()


def test_a_run_that_begins_again_without_a_checkpoint_is_told_apart_from_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        with Ledger(tmp_path / "ledger.jsonl") as ledger:
            ledger.trained([ledger.draw()], step=0)

    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]

    assert [line["event"] for line in lines] == ["dispatched", "trained", "resumed", "dispatched", "trained"]
    assert lines[2] == {"event": "resumed", "cursor": 0, "unfinished": []}


def test_every_event_is_one_line_that_survives_without_close(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.draw()
    ledger.generated(0, version=3)
    ledger.dropped(0, reason="nothing judged")

    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]

    assert lines == [
        {"event": "dispatched", "ordinal": 0},
        {"event": "generated", "ordinal": 0, "version": 3},
        {"event": "dropped", "ordinal": 0, "reason": "nothing judged"},
    ]
    ledger.close()


def test_a_group_that_came_too_late_is_drawn_again_and_stays_unfinished(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        first, second = ledger.draw(), ledger.draw()
        ledger.late(first)
        ledger.trained([second], step=0)

        assert ledger.snapshot().unfinished == (first,)
        assert (ledger.draw(), ledger.draw()) == (first, 2)
