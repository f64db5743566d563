"""What an objective sees once the difference between engine and trainer is in its advantages."""

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
    """A batch, and what its correction made of it."""

    batch: Batch
    """Its advantages are weighted, and its ``old`` is what ratios compare with."""
    log_ratio: Tensor
    """[B, T] nats of the policy at the start of the step over the engine; 0 outside the mask."""
    weight: Tensor
    """[B, T] factors of the advantages."""


def corrected(batch: Batch, correction: Correction) -> Corrected:
    """The batch as a step hands it to its objective."""
    log_ratio = torch.where(batch.mask, batch.old.logp - batch.sampled.logp, 0.0)
    weight = correction(log_ratio, batch.mask)
    old = replace(batch.old, logp=_anchor(batch, correction))
    seen = replace(batch, advantage=batch.advantage * weight, credit=batch.advantage, old=old)
    return Corrected(batch=seen, log_ratio=log_ratio, weight=weight)


def _anchor(batch: Batch, correction: Correction) -> Tensor:
    """[B, T] nats that the objective's own ratio compares with."""
    if correction.anchor == "old":
        return batch.old.logp
    # The engine's numbers for what an opponent wrote are the opponent's.
    return batch.sampled.logp.where(~batch.opponent[:, None], batch.old.logp)
