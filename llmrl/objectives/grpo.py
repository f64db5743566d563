"""GRPO: a clipped importance ratio times group-relative credit, with no critic; and Dr. GRPO.

Most methods of this folder are GRPO with another ratio, another surrogate, or another bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, Mean, MeanOver, Metric, Objective, Reads, objective
from llmrl.objectives.terms import (
    Estimator,
    beyond,
    clipped,
    dual_clipped,
    log_ratio,
    ratio_metrics,
    ratio_of,
    require,
    require_token_mean,
    share,
    token_kl,
)
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

WITH_REFERENCE: frozenset[Reads] = frozenset({"reference"})


@objective("grpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO(Objective):
    """Equal weight for every response, each averaged over its own tokens.

    Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, equation 3.
    """

    clip_low: float = 0.2
    """Below ``1 - clip_low`` the ratio stops paying for a token that should become rarer."""
    clip_high: float = 0.2
    """Above ``1 + clip_high`` it stops paying for a token that should become likelier."""
    dual_clip: float | None = None
    """Largest ratio that a token with negative advantage is charged for; by default no bound."""
    kl_weight: float = 0.0
    """Weight of the estimated KL(policy || reference); 0 needs no reference model."""
    kl: Estimator = "k3"
    """Estimator of that KL: k1, abs, k2, k3; k1+ and k3+ take the gradient of k2."""
    kl_corrected: bool = False
    """Whether to multiply the KL by the ratio, gradient included, as the old policy's samples estimate it."""

    mean_over: MeanOver = "responses"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"))
    always_reads: ClassVar[frozenset[Reads]] = frozenset({"old"})
    """Columns read whatever the options."""

    def __post_init__(self) -> None:
        require(0 <= self.clip_low <= 1, "clip_low must lie in [0, 1]", self.clip_low)
        require(self.clip_high >= 0, "clip_high must not be negative", self.clip_high)  # nan is refused too
        require(self.dual_clip is None or self.dual_clip > 1, "dual_clip must be above 1", self.dual_clip)
        require(0 <= self.kl_weight < math.inf, "kl_weight must be finite and not negative", self.kl_weight)
        require_token_mean(self.mean_over)

    @property
    def reads(self) -> frozenset[Reads]:
        return self.always_reads | WITH_REFERENCE if self.kl_weight else self.always_reads

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        loss = self.policy_loss(current, batch)
        if not self.kl_weight:
            return loss
        kl = self._kl(current, batch)
        charge = kl * ratio_of(self.log_ratio(current, batch)) if self.kl_corrected else kl
        return Loss(
            value=loss.value + self.kl_weight * charge,
            metrics={**loss.metrics, "kl_reference": Mean(value=kl.detach(), where=batch.mask)},
        )

    def policy_loss(self, current: TokenScores, batch: Batch) -> Loss:
        """[B, T] loss without the KL to the reference, which every token pays in any case."""
        drift = self.log_ratio(current, batch)
        ratio = ratio_of(drift)
        charged = self.surrogate(ratio, batch.advantage)
        loss = dual_clipped(charged, batch.advantage, self.dual_clip)
        metrics: dict[str, Metric] = {
            **ratio_metrics(drift, batch.mask),
            **self._clipping(ratio, loss < charged, batch),
        }
        return Loss(value=loss, metrics=metrics)

    def log_ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        """[B, T] log-ratio of the policy to ``old``, in nats."""
        return log_ratio(current, batch)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """[B, T] losses before the dual clip."""
        return clipped(ratio, advantage, self.clip_low, self.clip_high)

    @property
    def estimates_reward(self) -> bool:
        """Whether, on the policy's own samples, the expected gradient is that of the expected reward alone.

        With a KL it is that of no known quantity: tokens pay for their own KL, not for where they lead.
        """
        return not self.kl_weight

    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor | None:
        """The reward, or None if these options estimate no known quantity."""
        return reward if self.estimates_reward else None

    def _kl(self, current: TokenScores, batch: Batch) -> Tensor:
        assert batch.reference is not None  # promised by reads
        return token_kl((current.logp - batch.reference.logp).where(batch.mask, 0.0), self.kl)

    def _clipping(self, ratio: Tensor, dual: Tensor, batch: Batch) -> Mapping[str, Metric]:
        below, above = beyond(ratio, batch.advantage, self.clip_low, self.clip_high)
        flags = {"clip_fraction": below | above, "clip_low_fraction": below, "clip_high_fraction": above}
        if self.dual_clip is not None:
            flags["dual_clip_fraction"] = dual
        return {name: share(flag, batch.mask) for name, flag in flags.items()}


@objective("dr_grpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class DrGRPO(GRPO):
    """GRPO without its two biases: no division by the length of a response or by the spread of its group.

    Liu et al. 2025, "Understanding R1-Zero-Like Training", arXiv:2503.20783, section 3.
    """

    mean_over: MeanOver = "budget"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group", options={"scale": "none"}))
