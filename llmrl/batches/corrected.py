"""A batch whose advantages contain the correction for the difference between engine and trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmrl.batches.batch import Batch

if TYPE_CHECKING:
    from llmrl.experience.correction import Correction


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrected:
    """A batch, and the factors that its correction applied."""

    batch: Batch
    """The batch; its advantages are weighted, and its ``old`` is what ratios compare with."""
    log_ratio: Tensor
    """[B, T] log-ratio of the policy at the start of the step to the engine, in nats; 0 outside the mask."""
    weight: Tensor
    """[B, T] factors of the advantages."""


def corrected(batch: Batch, correction: Correction) -> Corrected:
    """Correct a batch as a step does for its objective."""
    log_ratio = torch.where(batch.mask, batch.old.logp - batch.sampled.logp, 0.0)
    weight = correction(log_ratio, batch.mask)
    old = replace(batch.old, logp=_anchor(batch, correction))
    seen = replace(batch, advantage=batch.advantage * weight, credit=batch.advantage, old=old)
    return Corrected(batch=seen, log_ratio=log_ratio, weight=weight)


def _anchor(batch: Batch, correction: Correction) -> Tensor:
    """[B, T] nats that the objective's own ratio compares with."""
    if correction.anchor == "old":
        return batch.old.logp
    # On an opponent's responses the engine's logprobs are the opponent's.
    return batch.sampled.logp.where(~batch.opponent[:, None], batch.old.logp)
