"""ERC: a token whose entropy has moved too far gives no gradient; a second trust region over DAPO or GPPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Reads, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import clipped, gently_clipped, require, share
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

TINY = 1e-8
"""Nats added to both entropies, so that the ratio of two that are 0 is 1."""


@objective("erc")
@dataclass(frozen=True, slots=True, kw_only=True)
class ERC(GRPO):
    """The ratio of a token's entropy to the old one is clipped too: beyond the bounds its loss is constant.

    Su et al. 2025, "Entropy Ratio Clipping", arXiv:2512.05591. Such a token keeps its value and its place in
    the mean; no gradient flows through the entropies. Where a step makes one update the ratio is 1 but for
    rounding. Its authors train with ``dual_clip = 10``, and with ``clip_high = 0.2`` over GPPO.
    """

    base: Literal["dapo", "gppo"] = "dapo"
    """Objective whose loss the tokens within the bounds have."""
    clip_high: float = 0.28
    """Above ``1 + clip_high`` the base clips a token that should become likelier."""
    entropy_low: float = 0.95
    """Smallest ratio of entropies that gives a gradient, itself excluded."""
    entropy_high: float = 1.05
    """Largest ratio of entropies that gives a gradient, itself excluded."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"), keep=Choice(name="varied"))
    always_reads: ClassVar[frozenset[Reads]] = frozenset({"old", "entropy"})

    def __post_init__(self) -> None:
        GRPO.__post_init__(self)
        require(0 <= self.entropy_low < 1, "entropy_low must lie in [0, 1)", self.entropy_low)
        require(self.entropy_high > 1, "entropy_high must be above 1", self.entropy_high)

    def policy_loss(self, current: TokenScores, batch: Batch) -> Loss:
        assert current.entropy is not None  # promised by reads
        assert batch.old.entropy is not None  # promised by reads
        loss = GRPO.policy_loss(self, current, batch)
        # Rounded to bfloat16, the ratio itself would cross such narrow bounds.
        ratio = (current.entropy.detach().double() + TINY) / (batch.old.entropy.double() + TINY)
        kept = (self.entropy_low < ratio) & (ratio < self.entropy_high)
        return Loss(
            value=loss.value.where(kept, loss.value.detach()),
            metrics={**loss.metrics, "entropy_kept_fraction": share(kept, batch.mask)},
        )

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        if self.base == "dapo":
            return clipped(ratio, advantage, self.clip_low, self.clip_high)
        return gently_clipped(
            ratio, advantage, self.clip_low, self.clip_high, low_weight=1.0, high_weight=1.0
        )
