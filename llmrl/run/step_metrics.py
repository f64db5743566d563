"""The numbers of one step: results of its groups, its rewards and the policy, and where its time went."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrl.experience.experience import Experience
from llmrl.prompts.pass_rates import PassRate
from llmrl.rewards.judgement import Judgement
from llmrl.run.evaluate import verdict
from llmrl.run.loop import Judged


@dataclass(slots=True, kw_only=True)
class SinceStep:
    """Numbers collected since the last step."""

    began: float
    responses: int = 0
    tokens: int = 0
    dropped: int = 0
    late: int = 0
    ahead_s: float = 0.0
    """Seconds in which the policy scored groups before the step had all of them."""
    kept: list[Judged] = field(default_factory=list[Judged])
    """The groups of the step with all their responses, including those not trained on."""
    pass_rates: list[PassRate] = field(default_factory=list[PassRate])
    """Pass rates of all groups, the dropped ones too: those are the easiest and the hardest."""
    sync_s: float = 0.0
    sync_bytes: int = 0
    changed: float | None = None
    """Share of values that changed in the newest weights; None where they were not compared."""

    def judged(self, judged: Judged, *, kept: bool, part: str) -> None:
        """Count a group that left the queue; the reward called ``part`` decides what solves a prompt."""
        self.responses += len(judged.group.rollouts)
        self.tokens += sum(r.tokens.size for r in judged.group.rollouts)
        self.dropped += not kept
        self.pass_rates.append(_pass_rate(judged, part))
        if kept:
            self.kept.append(judged)


def step_metrics(
    since: SinceStep,
    experiences: Sequence[Experience],
    metrics: Mapping[str, float],
    *,
    train_s: float,
    now: float,
) -> dict[str, float]:
    """The numbers of a finished step, by the names of docs/runs.md.

    Args:
        since: numbers collected since the step before.
        experiences: experiences that were trained on.
        metrics: the policy's metrics of the step.
        train_s: seconds that the update took.
        now: the present time, by the clock of ``since.began``.
    """
    found = dict(metrics) | _rewards(since.kept) | _rollouts(since.kept or experiences) | _lags(experiences)
    found |= _times(since, metrics, train_s=train_s, whole_s=now - since.began)
    found |= {
        "groups/trained": len(experiences),
        "groups/dropped": since.dropped,
        "sync/bytes": since.sync_bytes,
        "memory/driver_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if since.changed is not None:
        found["sync/changed"] = since.changed
    if since.responses:
        found |= {
            "rollout/responses": since.responses,
            "rollout/tokens_per_second": since.tokens / (now - since.began),
            "groups/late": since.late,
        }
    return found


def _times(
    since: SinceStep, metrics: Mapping[str, float], *, train_s: float, whole_s: float
) -> dict[str, float]:
    busy_s = train_s + since.ahead_s
    return {
        "policy/tokens_per_second": metrics["policy/tokens"] / busy_s,
        "time/step": whole_s,
        "time/wait": whole_s - busy_s,
        "time/train": busy_s,
        "time/sync": since.sync_s,
    }


def _pass_rate(judged: Judged, part: str) -> PassRate:
    """Pass rate of the policy's own responses that the reward called ``part`` scored."""
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
    """Judgements of the policy's own responses; with the opponent's, every mean preference would be 1/2."""
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
