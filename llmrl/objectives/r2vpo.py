"""R2VPO: nothing is clipped; the variance of the ratio has a price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, Mean, MeanOver, Objective, Reads, objective
from llmrl.objectives.terms import log_ratio, ratio_metrics, ratio_of, require, require_token_mean
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("r2vpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class R2VPO(Objective):
    """The ratio times the advantage, minus a price for the ratio's squared distance from 1.

    "Ratio-Variance Regularized Policy Optimization", 2026, arXiv:2601.03320, in its primal form with a fixed
    price, as public implementations have it; the paper's dual step, which adapts the price, is not here.
    """

    price: float = 0.04
    """Price of a squared distance of 1, in units of advantage."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"))

    def __post_init__(self) -> None:
        require(0 <= self.price < math.inf, "price must be finite and not negative", self.price)
        require_token_mean(self.mean_over)

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        drift = log_ratio(current, batch)
        ratio = ratio_of(drift)
        variance = (ratio - 1).square()
        return Loss(
            value=-batch.advantage * ratio + self.price * variance,
            metrics={
                **ratio_metrics(drift, batch.mask),
                "ratio_variance": Mean(value=variance.detach(), where=batch.mask),
            },
        )

    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor:
        """The reward, on the policy's own samples."""
        return reward
