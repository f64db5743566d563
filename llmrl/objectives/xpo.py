"""XPO: online DPO against the reference's responses, with a bonus for leaving them behind.

Xie et al. 2024, "Exploratory Preference Optimization", arXiv:2405.21046, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, objective
from llmrl.objectives.dpo import DPO
from llmrl.recipe.schema import Choice, Opponent

if TYPE_CHECKING:
    from llmrl.batches.batch import Batch, TokenScores


@objective("xpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class XPO(DPO):
    """Each pair is a response of the policy and one of the reference, the better one first."""

    optimism: float = 1e-5
    """Weight of the log-likelihood of the reference's response, which is pushed down: exploration."""

    bundle: ClassVar[Bundle] = Bundle(
        credit=Choice(name="reward"),  # one response of the policy is enough
        pairing=Choice(name="opponent"),
        correction=Choice(name="none"),
        opponent=Opponent(kind="reference"),
    )

    def __post_init__(self) -> None:
        DPO.__post_init__(self)
        if not 0 <= self.optimism < math.inf:
            raise ValueError(f"optimism must be finite and not negative, got {self.optimism}")

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        comparison = DPO.__call__(self, current, batch)
        by_opponent = current.logp.where(batch.mask & batch.opponent[:, None], 0.0).sum(-1)
        bonus = by_opponent[batch.pairs].sum(-1)
        return Loss(value=comparison.value + self.optimism * bonus, metrics=comparison.metrics)
