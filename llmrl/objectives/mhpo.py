"""MHPO: a ratio that saturates smoothly, and a damping that grows with the distance from ``old``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, Mean, MeanOver, Objective, Reads, objective
from llmrl.objectives.terms import log_ratio, ratio_metrics, require, require_token_mean
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("mhpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class MHPO(Objective):
    """Modulated Hazard-aware Policy Optimization, as a public port to verl has it; there is no official code.

    At a ratio of 1 the damping is already 0.265 with the default options, so compare learning rates with
    GRPO's accordingly.
    """

    reach: float = 1.5
    """Nats at which the log-ratio saturates."""
    scale_high: float = 1.0
    """Scale of the softplus of the log-ratio, which damps tokens above ``old``: smaller damps sooner."""
    power_high: float = 1.5
    """Power of that softplus, once scaled: how steeply the damping grows."""
    scale_low: float = 0.8
    """Scale of the softplus of minus the log-ratio, which damps tokens below ``old``."""
    power_low: float = 2.0
    """Power of that softplus, once scaled."""

    mean_over: MeanOver = "responses"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"))

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            allowed = name == "mean_over" or 0 < value < math.inf
            require(allowed, f"{name} must be finite and above 0", value)
        require_token_mean(self.mean_over)

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        drift = log_ratio(current, batch)
        held = self.reach * (drift / self.reach).tanh()
        hazard = self.hazard(held.detach())
        return Loss(
            value=-(held - hazard).exp() * batch.advantage,
            metrics={**ratio_metrics(drift, batch.mask), "hazard": Mean(value=hazard, where=batch.mask)},
        )

    def hazard(self, log_ratio: Tensor) -> Tensor:
        """[B, T] nats by which a token is damped."""
        zero = log_ratio.new_zeros(())
        high, low = zero.logaddexp(log_ratio), zero.logaddexp(-log_ratio)
        return (high / self.scale_high) ** self.power_high + (low / self.scale_low) ** self.power_low

    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor:
        """The reward, on the policy's own samples."""
        return reward
