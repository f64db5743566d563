"""Pairs: the common part of the losses over preferred and other responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmrl.objectives.contract import Mean, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), finite with its gradient for every finite ``x``."""
    return -x.new_zeros(()).logaddexp(-x)


def log_ratios(current: TokenScores, base: TokenScores, mask: Tensor) -> Tensor:
    """[B] log-ratio of ``current`` to ``base`` over all trained tokens of a response, in nats."""
    return (current.logp - base.logp).where(mask, 0.0).sum(-1)


def margins(worth: Tensor, batch: Batch) -> Tensor:
    """[P] margins: the [B] ``worth`` of the preferred response of each pair minus the other's."""
    return worth[batch.pairs[:, 0]] - worth[batch.pairs[:, 1]]


def pair_metrics(log_ratio: Tensor, batch: Batch) -> Mapping[str, Metric]:
    """Mean log-ratio of either side of the pairs, in nats, and share of pairs that rank the right way."""
    preferred, other = log_ratio.detach()[batch.pairs].unbind(-1)
    everywhere = preferred.new_ones(preferred.shape).bool()
    values = {
        "preferred_log_ratio": preferred,
        "other_log_ratio": other,
        "pair_accuracy": (preferred > other).to(preferred.dtype),
    }
    return {name: Mean(value=value, where=everywhere) for name, value in values.items()}
