"""TOPR: a bad response is pushed down less the rarer it became (Le Roux et al. 2025, arXiv:2503.14286)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives import Bundle, Loss, Mean, MeanOver, Objective, objective
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from llmrl.batches.batch import Batch, TokenScores


@objective("topr")
@dataclass(frozen=True, slots=True, kw_only=True)
class TOPR(Objective):
    most: float = 1.0
    """Largest weight of a response with negative advantage; the others have weight 1."""
    mean_over: MeanOver = "budget"
    bundle: ClassVar[Bundle] = Bundle(correction=Choice(name="none"))

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        drift = (current.logp.detach() - batch.sampled.logp).where(batch.mask, 0.0).sum(-1, keepdim=True)
        weight = drift.clamp(max=20).exp().clamp(max=self.most).where(batch.advantage < 0, 1.0)
        metrics = {"weight": Mean(value=weight, where=batch.mask)}
        return Loss(value=-weight * batch.advantage * current.logp, metrics=metrics)
