"""GPPO and CE-GPPO: tokens beyond the clip bounds keep a bounded gradient instead of none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrl.objectives.contract import Loss, Mean, MeanOver, Scope, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import gently_clipped, require

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("gppo")
@dataclass(frozen=True, slots=True, kw_only=True)
class GPPO(GRPO):
    """PPO's value, but a clipped token has the gradient that it would have at the bound.

    Su et al. 2025, "Klear-Reasoner", arXiv:2508.07629, equations 11 to 14; its authors train with
    ``positive_weight = 0.1`` and ``dual_clip = 10``. The public code averages the likelihood term over each
    micro-batch; here it is averaged over the update, whatever the split.
    """

    clip_high: float = 0.28
    """Above ``1 + clip_high`` a token that should become likelier has the gradient of that bound."""
    positive_weight: float = 0.0
    """Weight of the negative log-likelihood of correct responses, a mean over all of their tokens."""
    positive_reward: float = 1.0
    """Smallest total reward of a response that counts as correct."""

    mean_over: MeanOver = "tokens"

    def __post_init__(self) -> None:
        GRPO.__post_init__(self)
        require(
            0 <= self.positive_weight < math.inf,
            "positive_weight must be finite and not negative",
            self.positive_weight,
        )
        allowed = not self.positive_weight or self.mean_over == "tokens"
        require(allowed, 'mean_over must be "tokens" with a positive_weight', self.mean_over)

    @property
    def scope(self) -> Scope:
        """``step`` with a ``positive_weight``, which needs the whole update's tokens in correct responses."""
        return "step" if self.positive_weight else "token"

    def policy_loss(self, current: TokenScores, batch: Batch) -> Loss:
        loss = GRPO.policy_loss(self, current, batch)
        if not self.positive_weight:
            return loss
        correct = batch.mask & (batch.reward >= self.positive_reward)[:, None]
        unlikelihood = (-current.logp).where(correct, 0.0)
        # The mean over all tokens that follows has this many too many.
        nll = unlikelihood * batch.mask.sum() / correct.sum().clamp(min=1)
        return Loss(
            value=loss.value + self.positive_weight * nll,
            metrics={**loss.metrics, "positive_nll": Mean(value=unlikelihood.detach(), where=correct)},
        )

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return gently_clipped(
            ratio, advantage, self.clip_low, self.clip_high, low_weight=1.0, high_weight=1.0
        )

    @property
    def estimates_reward(self) -> bool:
        return not (self.kl_weight or self.positive_weight)


@objective("ce_gppo")
@dataclass(frozen=True, slots=True, kw_only=True)
class CEGPPO(GPPO):
    """GPPO with a weight for either bound, which steers entropy; it scales the value of clipped tokens too.

    Su et al. 2025, "CE-GPPO", arXiv:2509.20712, which calls the weights beta1 and beta2 (0.5 and 1 for its
    1.5B model); its authors train with ``dual_clip = 10``.
    """

    clip_high: float = 0.2
    """Above ``1 + clip_high`` a token that should become likelier has the gradient of that bound."""
    low_weight: float = 0.75
    """Weight of bad tokens below the lower bound; a large one sharpens the policy."""
    high_weight: float = 1.0
    """Weight of good tokens above the upper bound; a large one keeps it exploring."""

    def __post_init__(self) -> None:
        GPPO.__post_init__(self)
        for name, weight in (("low_weight", self.low_weight), ("high_weight", self.high_weight)):
            require(0 <= weight < math.inf, f"{name} must be finite and not negative", weight)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return gently_clipped(
            ratio,
            advantage,
            self.clip_low,
            self.clip_high,
            low_weight=self.low_weight,
            high_weight=self.high_weight,
        )
