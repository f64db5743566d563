"""Trackers get every number, and whatever they do the run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.report.trackers import KNOWN, Trackers, check_trackers


def test_the_literal_table_is_accelerates() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # noqa: PLC0415  imports torch

    assert sorted(LOGGER_TYPE_TO_CLASS) == list(KNOWN)


def test_an_unknown_tracker_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        RecipeError, match=r"report\.trackers: no tracker named 'tensorbord'\. Did you mean 'tensorboard'"
    ):
        check_trackers(["tensorbord"])


def test_a_tracker_that_is_not_installed_is_refused_before_the_run() -> None:
    with pytest.raises(RecipeError, match=r"'comet_ml' is not installed; run 'pip install comet-ml'"):
        check_trackers(["tensorboard", "comet_ml"])


def test_checking_imports_no_torch() -> None:
    code = "import sys; from llmrl.report.trackers import check_trackers; check_trackers(['tensorboard'])"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True, timeout=60
    )


def test_tensorboard_gets_every_finite_number_and_no_step_goes_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    with Trackers(
        ["tensorboard"], run_name="grpo", folder=tmp_path, options={"optimizer": {"lr": 0.1}}
    ) as trackers:
        trackers.log({"reward/mean": 0.25, "policy/loss": float("nan")}, step=1)
        trackers.log({"reward/mean": 0.5}, step=2)
        trackers.log({"held-out/accuracy": 0.75}, step=1)  # of older weights; W&B drops what goes back

    events = EventAccumulator(str(tmp_path / "tensorboard" / "grpo")).Reload()
    assert [(point.step, point.value) for point in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5)]
    assert [(point.step, point.value) for point in events.Scalars("held-out/accuracy")] == [(2, 0.75)]
    with pytest.raises(KeyError, match="policy/loss"):
        events.Scalars("policy/loss")


def test_a_tracker_that_raises_is_switched_off_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")

    with Trackers(["tensorboard"], run_name="grpo", folder=tmp_path, options={}) as trackers:
        for step in range(100):
            trackers.log({"reward/mean": 0.25}, step=step)

    (record,) = caplog.records
    assert (
        "Tracker 'tensorboard' is switched off for the rest of the run: FileExistsError"
        in record.getMessage()
    )
