"""What a stage writes down while it runs: one line per step, to the journal, the console and the trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmrl.experience.experience import Experience
from llmrl.prompts.pass_rates import FILE as PASS_RATES
from llmrl.prompts.pass_rates import append_pass_rates
from llmrl.recipe.schema import Stage
from llmrl.report.console import ConsoleReport
from llmrl.report.journal import EvaluationEntry, Journal, StepEntry
from llmrl.report.samples import write_samples
from llmrl.report.timeline import Timeline
from llmrl.report.trackers import Trackers
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.pool import EnginePool
from llmrl.run.evaluate import deciding_reward
from llmrl.run.loop import Judged
from llmrl.run.step_metrics import SinceStep, step_metrics
from llmrl.weights.bundle import ORIGINAL, WeightBundle


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """Collects the numbers of a step while it happens and writes them when it is done."""

    stage: Stage
    folder: Path
    journal: Journal
    console: ConsoleReport
    trackers: Trackers
    timeline: Timeline
    decode: Callable[[int], str]
    """The text of one token id."""
    pool: EnginePool
    """The engines of the stage; empty where nothing is generated."""
    scorer: Scorer | None = None
    earlier_s: float = 0.0
    """Seconds that the stage ran before a restart."""
    since: SinceStep = field(init=False)
    """Numbers collected since the last step."""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.since = SinceStep(began=self.began)

    def restart_clock(self) -> None:
        """Restart the clock: what came before (start-up, evaluation) is not part of the first step."""
        self.began = time.monotonic()
        self.since = SinceStep(began=self.began)
        self.pool.take_answered()
        self.pool.take_busy()
        if self.scorer is not None:
            self.scorer.take_statistics()

    def judged(self, judged: Judged, *, kept: bool) -> None:
        """Count a group that left the queue."""
        self.since.judged(judged, kept=kept, part=deciding_reward(self.stage))

    def scored_ahead(self, seconds: float) -> None:
        """Add time in which the policy worked for the next step."""
        self.since.ahead_s += seconds

    def late(self) -> None:
        """Count a group that was given up, as it would have come too late."""
        self.since.late += 1

    def synced(self, seconds: float, bundle: WeightBundle) -> None:
        """Record that the engines have taken new weights."""
        self.since.sync_bytes += bundle.size
        if bundle.base not in (None, ORIGINAL):
            self.since.changed = bundle.changed
        self.since.sync_s += seconds

    def stepped(
        self, step: int, experiences: Sequence[Experience], metrics: dict[str, float], *, train_s: float
    ) -> None:
        """Write the line of a finished optimizer step; ``metrics`` come from the policy."""
        now = time.monotonic()
        since, self.since = self.since, SinceStep(began=now)
        numbers = step_metrics(since, experiences, metrics, train_s=train_s, now=now)
        numbers |= self._engines(since, now=now)
        if self.scorer is not None:
            numbers |= self.scorer.take_statistics()
        entry = StepEntry(
            stage=self.stage.name,
            step=step + 1,
            version=step + 1,
            seconds=self._seconds(now),
            metrics=numbers,
        )
        append_pass_rates(self.folder / PASS_RATES, since.pass_rates)
        self.journal.step(entry)
        self.console.step(entry)
        self.trackers.log(numbers, step=step + 1)
        self.timeline.step_done()

    def samples(self, step: int, experiences: Sequence[Experience]) -> None:
        """Write the responses of a finished step, where samples are due."""
        every = self.stage.report.samples_every_steps
        if every and (step % every == 0 or step + 1 == self.stage.optimizer.steps):
            write_samples(self.folder, step=step + 1, experiences=experiences, decode=self.decode)

    def evaluated(self, entry: EvaluationEntry) -> None:
        """Record an evaluation of the held-out prompts."""
        self.journal.evaluation(entry)
        self.console.evaluation(entry)
        numbers = {
            "held-out/accuracy": entry.accuracy,
            "held-out/unjudged_rate": entry.unjudged / (entry.n + entry.unjudged),
            "held-out/version": entry.version,
        }
        self.trackers.log(numbers, step=entry.step)

    def bad_batch(self, step: int, experiences: Sequence[Experience]) -> Path:
        """Keep the batch of a step that was skipped, for study."""
        return write_samples(self.folder / "bad", step=step + 1, experiences=experiences, decode=self.decode)

    def _engines(self, since: SinceStep, *, now: float) -> dict[str, float]:
        """Responses of each engine, and the engines' idle time."""
        if not since.responses:
            return {}
        answered: dict[str, float] = {
            f"rollout/engine/{i}": count for i, count in enumerate(self.pool.take_answered())
        }
        idle = 1 - float(np.mean(self.pool.take_busy())) / (now - since.began)
        return answered | {"rollout/idle": max(0.0, idle)}

    def _seconds(self, now: float) -> float:
        return self.earlier_s + now - self.began
