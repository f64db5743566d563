"""What a stage writes down while it runs: one line per step, to the journal, the console and the trackers."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmrl.experience.experience import Experience
from llmrl.prompts.pass_rates import FILE as PASS_RATES
from llmrl.prompts.pass_rates import PassRate, append_pass_rates
from llmrl.recipe.schema import Stage
from llmrl.report.console import ConsoleReport
from llmrl.report.journal import EvaluationEntry, Journal, StepEntry
from llmrl.report.samples import write_samples
from llmrl.report.timeline import Timeline
from llmrl.report.trackers import Trackers
from llmrl.rewards.judgement import Judgement
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.pool import EnginePool
from llmrl.run.evaluate import deciding_reward, verdict
from llmrl.run.loop import Judged
from llmrl.weights.bundle import ORIGINAL, WeightBundle


@dataclass(slots=True, kw_only=True)
class _Window:
    """What has happened since the last step."""

    began: float
    responses: int = 0
    tokens: int = 0
    dropped: int = 0
    late: int = 0
    ahead_s: float = 0.0
    """In which the policy scored groups before the step had all of them."""
    kept: list[Judged] = field(default_factory=list[Judged])
    """The groups of the step with all their responses, those that are not trained on included."""
    pass_rates: list[PassRate] = field(default_factory=list[PassRate])
    """Of the dropped groups too: those are the easiest and the hardest."""
    sync_s: float = 0.0
    sync_bytes: int = 0
    changed: float | None = None
    """Of the newest weights: the share of values that are new; None where nobody compared."""


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
    pool: EnginePool | None
    scorer: Scorer | None = None
    earlier_s: float = 0.0
    """Seconds that the stage ran before a restart."""
    window: _Window = field(init=False)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.window = _Window(began=self.began)

    def restart_clock(self) -> None:
        """What came before (start-up, evaluation) is not part of the first step."""
        self.began = time.monotonic()
        self.window = _Window(began=self.began)
        if self.pool is not None:
            self.pool.take_answered()
            self.pool.take_busy()
        if self.scorer is not None:
            self.scorer.take_statistics()

    def judged(self, judged: Judged, *, kept: bool) -> None:
        """A group left the queue."""
        self.window.responses += len(judged.group.rollouts)
        self.window.tokens += sum(r.tokens.size for r in judged.group.rollouts)
        self.window.dropped += not kept
        self.window.pass_rates.append(_pass_rate(judged, deciding_reward(self.stage)))
        if kept:
            self.window.kept.append(judged)

    def scored_ahead(self, seconds: float) -> None:
        """The policy was at work for the next step."""
        self.window.ahead_s += seconds

    def late(self) -> None:
        """A group was given up, as it would have come too late."""
        self.window.late += 1

    def synced(self, seconds: float, bundle: WeightBundle) -> None:
        """The engines have taken new weights."""
        self.window.sync_bytes += bundle.size
        if bundle.base not in (None, ORIGINAL):
            self.window.changed = bundle.changed
        self.window.sync_s += seconds

    def stepped(
        self, step: int, experiences: Sequence[Experience], metrics: dict[str, float], *, train_s: float
    ) -> None:
        """One optimizer step is done; ``metrics`` is what the policy says of it."""
        now = time.monotonic()
        window, self.window = self.window, _Window(began=now)
        whole_s, busy_s = now - window.began, train_s + window.ahead_s
        numbers = metrics | _rewards(window.kept) | _rollouts(window.kept or experiences) | _lags(experiences)
        numbers |= {
            "groups/trained": len(experiences),
            "groups/dropped": window.dropped,
            "policy/tokens_per_second": metrics["policy/tokens"] / busy_s,
            "time/step": whole_s,
            "time/wait": whole_s - busy_s,
            "time/train": busy_s,
            "time/sync": window.sync_s,
            "sync/bytes": window.sync_bytes,
            "memory/driver_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if window.changed is not None:
            numbers["sync/changed"] = window.changed
        if window.responses:
            numbers |= {
                "rollout/responses": window.responses,
                "rollout/tokens_per_second": window.tokens / whole_s,
                "groups/late": window.late,
            }
        if window.responses and self.pool is not None:
            numbers |= {f"rollout/engine/{i}": count for i, count in enumerate(self.pool.take_answered())}
            numbers["rollout/idle"] = max(0.0, 1 - float(np.mean(self.pool.take_busy())) / whole_s)
        if self.scorer is not None:
            numbers |= self.scorer.take_statistics()
        entry = StepEntry(
            stage=self.stage.name,
            step=step + 1,
            version=step + 1,
            seconds=self._seconds(now),
            metrics=numbers,
        )
        append_pass_rates(self.folder / PASS_RATES, window.pass_rates)
        self.journal.step(entry)
        self.console.step(entry)
        self.trackers.log(numbers, step=step + 1)
        self.timeline.step_done()

    def samples(self, step: int, experiences: Sequence[Experience]) -> None:
        """Write the responses of a step that is done, where that is due."""
        every = self.stage.report.samples_every_steps
        if every and (step % every == 0 or step + 1 == self.stage.optimizer.steps):
            write_samples(self.folder, step=step + 1, experiences=experiences, decode=self.decode)

    def evaluated(self, entry: EvaluationEntry) -> None:
        """The held-out prompts were answered."""
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

    def _seconds(self, now: float) -> float:
        return self.earlier_s + now - self.began


def _pass_rate(judged: Judged, part: str) -> PassRate:
    """Of the policy's own responses that the reward called ``part`` gave a score."""
    verdicts = [
        verdict(judgement, part)
        for rollout, judgement in zip(judged.group.rollouts, judged.judgements, strict=True)
        if not rollout.opponent
    ]
    return PassRate(
        id=judged.group.prompt.id,
        solved=verdicts.count(True),
        judged=verdicts.count(True) + verdicts.count(False),
    )


def _rewards(groups: Sequence[Judged]) -> dict[str, float]:
    judgements = [j for one in groups for j in _of_policy(one)]
    if not judgements:
        return {}
    rewards = np.array([j.reward for j in judgements if j.reward is not None])
    numbers = {
        "reward/mean": float(rewards.mean()) if rewards.size else float("nan"),
        "reward/std": float(rewards.std()) if rewards.size else float("nan"),
        "judgement/error_rate": sum(j.status == "error" for j in judgements) / len(judgements),
        "judgement/abstain_rate": sum(j.status == "abstain" for j in judgements) / len(judgements),
        "judgement/seconds": sum(j.seconds for j in judgements) / len(judgements),
    }
    numbers |= {f"reward/source/{name}": value for name, value in _by_source(groups).items()}
    for name in {part for j in judgements for part in j.parts}:
        numbers[f"reward/part/{name}"] = float(
            np.mean([j.parts[name] for j in judgements if name in j.parts])
        )
    return numbers


def _of_policy(judged: Judged) -> list[Judgement]:
    """What the rewards say of the policy's responses; the opponent's would make every preference 1/2."""
    both = zip(judged.group.rollouts, judged.judgements, strict=True)
    return [judgement for rollout, judgement in both if not rollout.opponent]


def _rollouts(groups: Sequence[Judged] | Sequence[Experience]) -> dict[str, float]:
    rollouts = [r for one in groups for r in one.group.rollouts]
    lengths = [r.tokens.size for r in rollouts]
    numbers = {"rollout/tokens_mean": float(np.mean(lengths)), "rollout/tokens_max": max(lengths)}
    if any(r.turn.any() for r in rollouts):
        numbers["rollout/segments_mean"] = float(np.mean([1 + len(r.rewrites) for r in rollouts]))
    if not groups[0].judgements:
        return numbers
    return numbers | {
        "rollout/truncated_rate": sum(r.stop == "length" for r in rollouts) / len(rollouts),
        "rollout/aborted_rate": sum(r.stop == "abort" for r in rollouts) / len(rollouts),
    }


def _lags(experiences: Sequence[Experience]) -> dict[str, float]:
    if not experiences[0].judgements:
        return {}
    lags = np.array([e.lag for e in experiences])
    return {"lag/mean": float(lags.mean()), "lag/max": float(lags.max())}


def _by_source(groups: Sequence[Judged]) -> dict[str, float]:
    """Mean reward of each source, where there are several."""
    rewards: dict[str, list[float]] = {}
    for one in groups:
        rewards.setdefault(one.group.prompt.source, []).extend(
            j.reward for j in _of_policy(one) if j.reward is not None
        )
    return (
        {name: float(np.mean(values)) for name, values in rewards.items() if values}
        if len(rewards) > 1
        else {}
    )
