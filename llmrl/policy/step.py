"""One optimizer step of one rank: its micro-batches, the objective on each, one reduction, one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores, Totals
from llmrl.batches.collate import Collated
from llmrl.experience.correction import Correction
from llmrl.objectives.contract import Loss, Max, Mean, Objective
from llmrl.policy.reduce import Tally, reduce_loss
from llmrl.policy.watch import GradientWatch
from llmrl.policy.zero import Zero

Forward = Callable[[Collated], TokenScores]


def update(
    zero: Zero,
    watch: GradientWatch,
    microbatches: Sequence[Collated],
    *,
    forward: Forward,
    reference: Forward | None,
    objective: Objective,
    correction: Correction,
    totals: Totals,
    lr: float,
) -> dict[str, float]:
    """Accumulate the gradient of the whole step over this rank's micro-batches, then update once.

    Every rank calls this with the same number of micro-batches. Each one's share of the loss has the
    denominators of the whole step, so the shares of all micro-batches on all ranks add up. Where the loss
    or a gradient is not finite, weights and optimizer states stay as they are: ``policy/skipped`` is 1.

    Returns:
        The step's metrics, reduced over all micro-batches and ranks.
    """
    tally = Tally()
    finite = True
    for collated in microbatches:
        scores = forward(collated)
        old = TokenScores(
            logp=scores.logp.detach(), entropy=None if scores.entropy is None else scores.entropy.detach()
        )
        with torch.no_grad():
            frozen = reference(collated) if reference else None
        batch = collated.batch(old=old, reference=frozen)
        log_ratio = torch.where(batch.mask, batch.old.logp - batch.sampled.logp, 0.0)
        weight = correction(log_ratio)
        loss = objective(scores, replace(batch, advantage=batch.advantage * weight))
        share = reduce_loss(loss.value, batch.mask, totals, objective.mean_over)
        finite = finite and math.isfinite(share.item())
        zero.backward(share)
        _count(tally, loss, batch, share=share)
        if not objective.bundle.demonstrations:
            _compare(tally, batch, log_ratio=log_ratio, weight=weight)
    skip = not zero.all_agree(finite and watch.take())
    norm = zero.step(lr=lr, skip=skip)
    return tally.over(zero) | {"policy/grad_norm": norm, "policy/lr": lr, "policy/skipped": float(skip)}


def _count(tally: Tally, loss: Loss, batch: Batch, *, share: Tensor) -> None:
    tally.add("policy/loss", share)
    if batch.old.entropy is not None:
        tally.mean("policy/entropy", batch.old.entropy, batch.mask)
    for name, metric in loss.metrics.items():
        match metric:
            case Mean(value=value, where=where):
                tally.mean(f"objective/{name}", value, where)
            case Max(value=value):
                tally.largest(f"objective/{name}", value)


def _compare(tally: Tally, batch: Batch, *, log_ratio: Tensor, weight: Tensor) -> None:
    """How far the engine that sampled is from the policy that trains; nobody sampled a demonstration."""
    tally.mean("policy/kl_sampled", -log_ratio, batch.mask)
    tally.mean("correction/mean", weight, batch.mask)
    tally.mean("correction/capped_rate", (weight != log_ratio.exp()).float(), batch.mask)
