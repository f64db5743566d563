"""The dictionary knows every name that is written, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llmrl.report
from llmrl.report.metrics import METRICS, metric, units


def test_a_prefix_stands_for_every_name_below_it() -> None:
    assert metric("reward/part/format") is METRICS["reward/part/"]
    assert metric("objective/clip_fraction").group == "objective"


@pytest.mark.parametrize("name", ["reward/meen", "reward/part/", "objective", "", "reward"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(KeyError, match=f"no metric named '{name}'"):
        metric(name)


def test_the_error_suggests_the_nearest_name() -> None:
    with pytest.raises(KeyError, match="Did you mean 'reward/mean'"):
        metric("reward/meen")


def test_every_metric_says_its_unit_and_meaning() -> None:
    assert units()["rollout/tokens_per_second"] == "tokens/s"
    assert all(info.unit and info.text and info.text[-1] != "." for info in METRICS.values())


def test_every_metric_that_a_chart_asks_for_is_written() -> None:
    script = (Path(llmrl.report.__file__).parent / "page" / "curves.js").read_text(encoding="utf-8")
    groups = {one.group for one in METRICS.values()}
    asked = [name for name in re.findall(r"'(\w+/\w*)'", script) if name.partition("/")[0] in groups]

    assert len(asked) > 10
    assert [name for name in asked if name not in METRICS] == []
