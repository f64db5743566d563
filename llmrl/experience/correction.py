"""Correction: a weight per token for the difference between the engine that sampled and the trained policy.

The engine computes with other kernels and, in asynchronous runs, with older weights. The weight multiplies
the advantage and carries no gradient, so it is independent of an objective's own ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

correction: Registry[Correction] = Registry("correction")


class Correction(Protocol):
    """A frozen dataclass whose fields are its options."""

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """[B, T] weight from [B, T] ``old - sampled`` nats, which is 0 outside the mask."""
        ...


@correction("none")
@dataclass(frozen=True, slots=True, kw_only=True)
class NoCorrection:
    """Weight 1: the engine's samples are taken as the policy's own."""

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.new_ones(log_ratio.shape)


@correction("truncated")
@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """Importance weight of the token, cut off at ``cap``.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """

    cap: float = 2.0
    """Largest weight."""

    def __post_init__(self) -> None:
        if not self.cap >= 1:  # nan is not
            raise ValueError(f"cap must be at least 1, got {self.cap}")

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.clamp(-20, 20).exp().clamp(max=self.cap)


@correction("masked")
@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Importance weight of the token, or 0 where it lies outside [low, high] (IcePop)."""

    low: float = 0.5
    """Below this the token is left out."""
    high: float = 5.0
    """Above this the token is left out."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 < self.high:
            raise ValueError(f"low and high must lie on either side of 1, got {self.low} and {self.high}")

    def __call__(self, log_ratio: Tensor) -> Tensor:
        weight = log_ratio.clamp(-20, 20).exp()
        return weight * ((weight >= self.low) & (weight <= self.high))
