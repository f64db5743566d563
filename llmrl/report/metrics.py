"""The dictionary of metrics: every name that may be written down, its unit, and its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmrl.errors import did_you_mean

Better = Literal["up", "down"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """The meaning of a number in metrics.jsonl."""

    unit: str
    """Unit; ``1`` is a plain number, ``fraction`` lies between 0 and 1."""
    text: str
    """Description in one line."""
    better: Better
    """Direction that is good; None where neither is."""
    group: str
    """Part of the name up to its first slash; reports keep a group together."""


# A name that ends in a slash stands for every name that begins with it.
_TABLE: tuple[tuple[str, str, Better, str], ...] = (
    ("reward/mean", "1", "up", "mean reward of the step's scored responses"),
    ("reward/std", "1", None, "standard deviation of reward over the step's scored responses"),
    ("reward/part/", "1", "up", "mean score of one named reward, before its weight"),
    ("reward/source/", "1", "up", "mean reward of the prompts of one source"),
    ("judgement/error_rate", "fraction", "down", "share of judgements that failed"),
    ("judgement/abstain_rate", "fraction", None, "share of judgements that abstained"),
    ("judgement/seconds", "s", "down", "mean time to judge one response"),
    ("judgement/error_rate/", "fraction", "down", "share of one named reward's verdicts that are errors"),
    ("judgement/abstain_rate/", "fraction", None, "share of one named reward's verdicts that abstain"),
    ("judgement/seconds_p50/", "s", "down", "median time of one named reward for a response"),
    ("judgement/seconds_p95/", "s", "down", "95th percentile of the time of one named reward"),
    ("judgement/seconds_max/", "s", "down", "longest time of one named reward"),
    ("judgement/known_rate", "fraction", None, "share of responses whose verdict was known already"),
    ("judgement/restarts", "processes", "down", "reward processes that had to be replaced"),
    ("rollout/tokens_mean", "tokens", None, "mean length of a response"),
    ("rollout/tokens_max", "tokens", None, "longest response"),
    (
        "rollout/segments_mean",
        "1",
        "down",
        "mean pieces of a response, above 1 where its past was rewritten",
    ),
    ("rollout/truncated_rate", "fraction", "down", "share of responses that the token budget cut off"),
    ("rollout/aborted_rate", "fraction", "down", "share of responses that were not finished"),
    ("rollout/tokens_per_second", "tokens/s", "up", "response tokens of the step over the time they took"),
    ("rollout/responses", "responses", None, "responses generated for the step"),
    ("rollout/idle", "fraction", "down", "share of the step in which an engine had nothing to do"),
    ("rollout/engine/", "responses", None, "responses that one engine generated"),
    ("groups/trained", "groups", None, "groups the step trained on"),
    ("groups/dropped", "groups", None, "groups generated but not trained on, such as those without signal"),
    ("groups/late", "groups", "down", "groups stopped and drawn again, as they would have come too late"),
    ("lag/mean", "versions", "down", "mean over groups of the lag of their oldest token"),
    ("lag/max", "versions", "down", "lag of the oldest trained token"),
    ("policy/loss", "1", None, "the objective, reduced over the whole step"),
    ("policy/entropy", "nats", None, "mean entropy of the policy over trained tokens"),
    ("policy/grad_norm", "1", None, "L2 norm of the gradient before clipping"),
    ("policy/lr", "1", None, "learning rate of the step"),
    ("policy/tokens", "tokens", None, "tokens trained on"),
    ("policy/tokens_per_second", "tokens/s", "up", "trained tokens over the time of the update"),
    ("policy/rank/", "tokens", None, "tokens that one rank trained on"),
    ("policy/skipped", "updates", "down", "skipped, as their loss or gradient was not finite"),
    ("policy/kl_sampled", "nats", None, "mean over trained tokens of sampled minus old logp"),
    ("correction/mean", "1", None, "mean importance weight between trainer and engine"),
    ("correction/largest", "1", None, "largest weight for the difference between engine and trainer"),
    ("correction/masked_rate", "fraction", "down", "share of trained tokens that the correction left out"),
    ("objective/", "1", None, "a metric of the objective itself"),
    ("time/step", "s", "down", "one whole step"),
    ("time/wait", "s", "down", "waiting for judged groups"),
    ("time/train", "s", "down", "forward, backward and update; what was scored ahead of the step too"),
    ("time/sync", "s", "down", "sending the weights to the engines until all of them confirm"),
    ("sync/bytes", "B", "down", "weights sent since the last step, once for all engines of a machine"),
    ("sync/changed", "fraction", None, "share of the weights' values that differ from the last version's"),
    ("memory/driver_rss", "MiB", "down", "largest resident memory of the driver so far"),
    ("memory/policy_rss", "MiB", "down", "largest resident memory of a rank so far"),
    ("memory/policy_gpu", "MiB", "down", "largest peak of GPU memory of a rank"),
)

METRICS = {
    name: MetricInfo(unit=unit, text=text, better=better, group=name.split("/")[0])
    for name, unit, better, text in _TABLE
}


def metric(name: str) -> MetricInfo:
    """Look up the meaning of ``name``.

    Raises:
        KeyError: it is not in the dictionary; a number without a meaning is not written down.
    """
    if name in METRICS and not name.endswith("/"):
        return METRICS[name]
    for prefix, info in METRICS.items():
        if prefix.endswith("/") and name.startswith(prefix) and name != prefix:
            return info
    raise KeyError(f"no metric named '{name}'.{did_you_mean(name, METRICS)}")


def units() -> dict[str, str]:
    """Unit of every metric, as the first line of metrics.jsonl carries it."""
    return {name: info.unit for name, info in METRICS.items()}
