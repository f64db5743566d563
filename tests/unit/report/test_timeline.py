"""The timeline shows who did what when, whatever overlaps, and says which side waits for which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmrl.report.binding import binding
from llmrl.report.journal import StepEntry
from llmrl.report.timeline import FILE, Timeline


def events(folder: Path) -> list[dict[str, Any]]:
    """The array without the bracket and comma that its readers do without, too."""
    text = (folder / FILE).read_text()
    return json.loads(text.rstrip().removesuffix(",") + "]")


def test_spans_that_overlap_are_drawn_on_lanes_below_each_other(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path, steps=1)
    with timeline.span("engine-0", "train 0"):
        with timeline.span("engine-0", "train 1"), timeline.span("policy", "step 1"):
            pass
        with timeline.span("engine-0", "train 2"):
            pass
    timeline.step_done()
    with timeline.span("policy", "step 2"):
        pass

    written = events(tmp_path)

    tracks = {e["tid"]: e["args"]["name"] for e in written if e["ph"] == "M"}
    spans = {e["name"]: (tracks[e["tid"]], e["ts"], e["dur"]) for e in written if e["ph"] == "X"}
    assert {name: track for name, (track, _, _) in spans.items()} == {
        "train 0": "engine-0",
        "train 1": "engine-0 (2)",
        "train 2": "engine-0 (2)",
        "step 1": "policy",
    }
    (_, whole, whole_for), (_, part, part_for) = spans["train 0"], spans["train 2"]
    assert whole <= part <= part + part_for <= whole + whole_for


def test_a_run_that_asks_for_no_timeline_gets_none(tmp_path: Path) -> None:
    with Timeline(tmp_path, steps=0) as timeline, timeline.span("policy", "step 1"):
        pass

    assert not (tmp_path / FILE).exists()


def entry(**metrics: float) -> StepEntry:
    return StepEntry(stage="s", step=1, version=1, seconds=1.0, metrics=metrics)


def test_the_side_that_the_other_waits_for_binds() -> None:
    steps = [
        entry(**{"time/step": 1.0, "time/wait": 0.5, "rollout/idle": 0.1}),
        entry(**{"time/step": 3.0, "time/wait": 0.3, "rollout/idle": 0.0}),
    ]

    found = binding(steps)

    assert str(found) == "generation binds: the policy was idle 20% of the time, the engines 2%"


def test_what_policy_and_engines_both_wait_for_binds() -> None:
    said = str(binding([entry(**{"time/step": 4.0, "time/wait": 3.2, "rollout/idle": 0.7})]))

    assert said == (
        "judging or the weight sync binds: the policy was idle 80% of the time, the engines 70%, "
        "both at once at least 50%"
    )


def test_a_stage_that_generates_nothing_binds_nowhere() -> None:
    assert binding([entry(**{"time/step": 1.0, "time/wait": 0.5})]) is None
