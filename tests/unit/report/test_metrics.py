"""The dictionary knows every name that is written, and nothing else."""

from __future__ import annotations

import pytest

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
