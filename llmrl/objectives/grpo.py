"""GRPO: a clipped importance ratio times group-relative credit, with no critic.

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, equation 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, Mean, Reads, Unit, objective
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from llmrl.batches.batch import Batch, TokenScores


@objective("grpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO:
    """Equal weight for every response, each averaged over its own tokens."""

    clip_low: float = 0.2
    """Below ``1 - clip_low`` the ratio stops paying for a token that should become rarer."""
    clip_high: float = 0.2
    """Above ``1 + clip_high`` it stops paying for a token that should become likelier."""
    kl_weight: float = 0.0
    """Weight of the k3 estimate of KL(policy || reference); 0 needs no reference model."""

    mean_over: ClassVar[Unit] = "responses"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"))

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low < 1:
            raise ValueError(f"clip_low must lie in [0, 1), got {self.clip_low}")
        if not self.clip_high >= 0:  # nan is not
            raise ValueError(f"clip_high must not be negative, got {self.clip_high}")
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight must be finite and not negative, got {self.kl_weight}")

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old", "reference"}) if self.kl_weight else frozenset({"old"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        ratio = (current.logp - batch.old.logp).clamp(-20, 20).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        gain = (ratio * batch.advantage).minimum(clipped * batch.advantage)
        loss = -gain
        if batch.reference is not None:
            drift = batch.reference.logp - current.logp
            loss = loss + self.kl_weight * (drift.clamp(-20, 20).exp() - drift - 1)
        was_clipped = (gain < ratio * batch.advantage).detach().float()
        return Loss(value=loss, metrics={"clip_fraction": Mean(value=was_clipped, where=batch.mask)})
