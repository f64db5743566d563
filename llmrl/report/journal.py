"""The journal of a stage: metrics.jsonl, one line per step and per evaluation, flushed as it is written.

{"units": {"reward/mean": "1", ...}}
{"stage": "grpo", "step": 1, "version": 1, "seconds": 0.8, "metrics": {"reward/mean": 0.41, ...}}
{"stage": "grpo", "step": 0, "version": 0, "evaluation": {"name": "held-out", "correct": 190, ...}}
{"resumed": 0}    what stands above it of later steps is of weights that are lost
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from llmrl.errors import DataError, shown
from llmrl.report.metrics import metric, units

FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """One optimizer step."""

    stage: str
    step: int
    """Steps of the stage taken so far, this one included."""
    version: int
    """Weight version that the step made."""
    seconds: float
    """Seconds since the stage began, restarts included."""
    metrics: Mapping[str, float]
    """Values by the dictionary's names; one that is not finite is written as null and read back as NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationEntry:
    """One pass over the held-out prompts."""

    stage: str
    step: int
    version: int
    """Weight version that answered."""
    name: str
    correct: int
    n: int
    """Number of judged responses, all prompts together."""
    unjudged: int = 0
    """Responses without a verdict: the reward abstained or failed, or they are unfinished."""
    accuracy: float
    """Share of correct responses among the judged ones; nan where there is none."""
    low: float
    """Lower end of the 95 % interval of ``accuracy``."""
    high: float
    pass_at_k: Mapping[int, float] = field(default_factory=dict[int, float])
    tokens_mean: float
    """Mean length of a response, in tokens."""

    @property
    def basis(self) -> str:
        """The basis of the accuracy, for people."""
        unjudged = f", {self.unjudged} not judged" if self.unjudged else ""
        return f"n = {self.n}, 95 % {self.low:.3f}-{self.high:.3f}{unjudged}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """A journal read back, in the order of steps."""

    steps: tuple[StepEntry, ...]
    evaluations: tuple[EvaluationEntry, ...]
    units: Mapping[str, str]

    @property
    def last(self) -> int:
        """The last step that the journal knows; -1 without any."""
        return max((entry.step for entry in (*self.steps, *self.evaluations)), default=-1)


class Journal:
    """Appends to the ``metrics.jsonl`` of a stage's folder; after a crash it goes on where the file ends."""

    def __init__(self, folder: Path, *, resumed: int | None = None) -> None:
        """Open the journal, and mark what is of later steps than ``resumed``, those that the weights took."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._file = self.path.open("ab", buffering=0)
        self._drop_torn_line()
        if self._file.tell() == 0:
            self._append({"units": units()})
        if resumed is not None and read_journal(self.path).last > resumed:
            self._append({"resumed": resumed})

    def step(self, entry: StepEntry) -> None:
        """Write one step.

        Raises:
            KeyError: a metric is not in the dictionary.
        """
        for name in entry.metrics:
            metric(name)
        self._append(
            {
                "stage": entry.stage,
                "step": entry.step,
                "version": entry.version,
                "seconds": number(entry.seconds),
                "metrics": {name: number(value) for name, value in entry.metrics.items()},
            }
        )

    def evaluation(self, entry: EvaluationEntry) -> None:
        """Write one evaluation."""
        result = {
            "name": entry.name,
            "correct": entry.correct,
            "n": entry.n,
            "unjudged": entry.unjudged,
            "accuracy": number(entry.accuracy),
            "low": number(entry.low),
            "high": number(entry.high),
            "pass@k": {str(k): number(value) for k, value in entry.pass_at_k.items()},
            "tokens_mean": number(entry.tokens_mean),
        }
        where = {"stage": entry.stage, "step": entry.step, "version": entry.version}
        self._append({**where, "evaluation": result})

    def close(self) -> None:
        """Close the file; every line is already on its way to the disk."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def _drop_torn_line(self) -> None:
        """Delete the half line of a process killed while writing, lest the next line be glued to it."""
        whole = self.path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)
        self._file.seek(whole)


def number(value: float) -> float | None:
    """``value`` as JSON can hold it: a plain float, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def read_journal(path: Path) -> Entries:
    """Read a metrics.jsonl, even while it is being written.

    Steps that a resumed run took again count once, as the last run took them, and evaluations of weights that
    were lost by resuming do not count.

    Raises:
        DataError: a line is not what a journal writes.
    """
    steps: dict[tuple[str, int], StepEntry] = {}
    evaluations: dict[tuple[str, str, int], EvaluationEntry] = {}
    known: dict[str, str] = {}
    whole = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is still being written
    for row, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
            if "units" in record:
                known = record["units"]
            elif "resumed" in record:
                _forget(steps, after=record["resumed"])
                _forget(evaluations, after=record["resumed"])
            elif "evaluation" in record:
                evaluation = _evaluation(record)
                evaluations[evaluation.stage, evaluation.name, evaluation.step] = evaluation
            else:
                step = _step(record)
                steps[step.stage, step.step] = step
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            got = shown(line.decode(errors="replace"))
            raise DataError(f"{path}: row {row} is not a line of a journal: {got}.") from error
    return Entries(
        steps=tuple(sorted(steps.values(), key=lambda entry: entry.step)),
        evaluations=tuple(sorted(evaluations.values(), key=lambda entry: entry.step)),
        units=known,
    )


def _forget(entries: dict[Any, StepEntry] | dict[Any, EvaluationEntry], *, after: int) -> None:
    for key in [key for key, entry in entries.items() if entry.step > after]:
        del entries[key]


def _step(record: Mapping[str, Any]) -> StepEntry:
    return StepEntry(
        stage=record["stage"],
        step=record["step"],
        version=record["version"],
        seconds=_or_nan(record["seconds"]),
        metrics={name: _or_nan(value) for name, value in record["metrics"].items()},
    )


def _evaluation(record: Mapping[str, Any]) -> EvaluationEntry:
    result = record["evaluation"]
    return EvaluationEntry(
        stage=record["stage"],
        step=record["step"],
        version=record["version"],
        name=result["name"],
        correct=result["correct"],
        n=result["n"],
        unjudged=result.get("unjudged", 0),  # older journals did not count them
        accuracy=_or_nan(result["accuracy"]),
        low=_or_nan(result["low"]),
        high=_or_nan(result["high"]),
        pass_at_k={int(k): _or_nan(value) for k, value in result["pass@k"].items()},
        tokens_mean=_or_nan(result["tokens_mean"]),
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
