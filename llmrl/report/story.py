"""The contents of a run's folder, put together for the page that shows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrl.errors import DataError, shown
from llmrl.report.binding import Binding, binding
from llmrl.report.curves import POINTS, Curves, curves, shares
from llmrl.report.excerpts import Excerpts, excerpts
from llmrl.report.journal import FILE, Entries, EvaluationEntry, StepEntry, read_journal
from llmrl.report.metrics import MetricInfo, metric
from llmrl.report.settings import Setting, settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One number at the beginning and at the end."""

    metric: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStory:
    """One stage."""

    name: str
    """Name of the stage's folder, such as ``1-grpo``."""
    steps: int
    seconds: float
    tokens: float
    """Trained tokens, all steps together."""
    responses: float
    """Generated responses, all steps together."""
    binding: Binding | None
    """The side that others wait for; None where nothing was generated."""
    change: Change | None
    """Change of the reward, or of the loss without rewards, between means of the first and last tenth."""
    evaluations: tuple[EvaluationEntry, ...]
    curves: Curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A whole run."""

    name: str
    stages: list[StageStory]
    metrics: dict[str, MetricInfo]
    """Meanings of the metrics of the curves."""
    excerpts: Excerpts
    settings: dict[str, list[Setting]]
    arithmetic: list[str]


def read_story(run_folder: Path) -> Story:
    """Put together what the run has written so far.

    Raises:
        DataError: no run is in the folder, or a file in it is damaged.
    """
    folders = sorted(
        (found.parent for found in run_folder.glob(f"*/{FILE}") if re.match(r"\d+-", found.parent.name)),
        key=lambda folder: int(folder.name.split("-")[0]),
    )
    if not folders:
        raise DataError(
            f"{run_folder}: no <stage>/{FILE} is here; name the folder of a run that has started."
        )
    journals = [read_journal(folder / FILE) for folder in folders]
    points = shares([len(journal.steps) for journal in journals], POINTS)
    stages = [_stage(*each) for each in zip(folders, journals, points, strict=True)]
    recipe, arithmetic = _recipe(run_folder / "recipe.json")
    return Story(
        name=run_folder.resolve().name,
        stages=stages,
        metrics={name: _meaning(run_folder, name) for stage in stages for name in stage.curves.metrics},
        excerpts=excerpts(folders),
        settings=settings(recipe) if recipe else {},
        arithmetic=arithmetic,
    )


def _meaning(run_folder: Path, name: str) -> MetricInfo:
    try:
        return metric(name)
    except KeyError:
        raise DataError(
            f"{run_folder}: {FILE} has a metric {shown(name)}, which this version of llmrl does not know; "
            "use the version that wrote it."
        ) from None


def _stage(folder: Path, journal: Entries, points: int) -> StageStory:
    steps = journal.steps
    return StageStory(
        name=folder.name,
        steps=max((entry.step for entry in steps), default=0),
        seconds=max((entry.seconds for entry in steps if math.isfinite(entry.seconds)), default=0.0),
        tokens=_sum(steps, "policy/tokens"),
        responses=_sum(steps, "rollout/responses"),
        binding=binding(steps),
        change=_change(steps, "reward/mean") or _change(steps, "policy/loss"),
        evaluations=journal.evaluations,
        curves=curves(steps, points=points),
    )


def _sum(steps: Sequence[StepEntry], name: str) -> float:
    return float(np.nansum([entry.metrics.get(name, np.nan) for entry in steps]))


def _change(steps: Sequence[StepEntry], name: str) -> Change | None:
    values = np.array([entry.metrics.get(name, np.nan) for entry in steps])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tenth = max(1, len(values) // 10)
    return Change(metric=name, before=float(values[:tenth].mean()), after=float(values[-tenth:].mean()))


def _recipe(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    if not path.exists():
        return {}, []
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return read["recipe"], list(read["arithmetic"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: this is not the resolved recipe that a run writes down.") from error
