"""Correction: a weight per token for the difference between the engine that sampled and the trained policy.

The engine computes with other kernels and, in asynchronous runs, with older weights. The weight multiplies
the advantage and carries no gradient, so it is independent of an objective's own ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Anchor = Literal["old", "sampled"]

Level = Literal["token", "response", "mean"]
"""Scope of a weight. ``token``: each token has its own; ``response``: all tokens have the product over the
response's trained tokens; ``mean``: all have their geometric mean."""


class Correction(Protocol):
    """A frozen dataclass whose fields are its options."""

    anchor: ClassVar[Anchor]
    """Scores that the objective's own ratio compares with: the trainer's ``old`` scores; or the engine's for
    the policy's responses."""

    def __call__(self, log_ratio: Tensor, mask: Tensor, /) -> Tensor:
        """[B, T] weights from [B, T] ``old - sampled`` nats, which are 0 outside the [B, T] mask.

        Rows are whole, so a weight may depend on its response; never on other rows.
        """
        ...


correction: Registry[Correction] = Registry("correction", base=Correction)


@correction("none")
@dataclass(frozen=True, slots=True, kw_only=True)
class NoCorrection(Correction):
    """Weight 1: the engine's samples are taken as the policy's own."""

    anchor: ClassVar[Anchor] = "old"

    def __call__(self, log_ratio: Tensor, _mask: Tensor) -> Tensor:
        return log_ratio.new_ones(log_ratio.shape)


@correction("bypass")
@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass(Correction):
    """Weight 1, and the objective's own ratio is to the engine: a further weight would count it twice.

    For an opponent's responses the ratio stays relative to ``old``, as their engine sampled the opponent.
    """

    anchor: ClassVar[Anchor] = "sampled"

    def __call__(self, log_ratio: Tensor, _mask: Tensor) -> Tensor:
        return log_ratio.new_ones(log_ratio.shape)


@correction("truncated")
@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Correction):
    """The importance weight, cut off at ``cap`` (TIS; with ``cap`` 5 the clamp of decoupled PPO).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """

    cap: float = 2.0
    """Largest weight."""
    level: Level = "token"
    """Scope that shares one weight."""

    anchor: ClassVar[Anchor] = "old"

    def __post_init__(self) -> None:
        if not self.cap >= 1:  # nan is not
            raise ValueError(f"cap must be at least 1, got {self.cap}")

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return importance(log_ratio, mask, self.level).clamp(max=self.cap)


@correction("masked")
@dataclass(frozen=True, slots=True, kw_only=True)
class Masked(Correction):
    """The importance weight, or 0 outside [low, high] (IcePop; with ``low`` 0 the mask of decoupled PPO).

    Masked tokens still count where losses are averaged, so no other token weighs more. Source: Ling team
    2025, "Every step evolves", arXiv:2510.18855; per response: Liu et al. 2025, "When speed kills stability".
    """

    low: float = 0.5
    """Lower bound of the weights; tokens below it are masked."""
    high: float = 5.0
    """Upper bound of the weights; tokens above it are masked."""
    level: Level = "token"
    """Scope that shares one weight."""

    anchor: ClassVar[Anchor] = "old"

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 < self.high:
            raise ValueError(f"low and high must lie on either side of 1, got {self.low} and {self.high}")

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        weight = importance(log_ratio, mask, self.level)
        return weight * ((weight >= self.low) & (weight <= self.high))


def importance(log_ratio: Tensor, mask: Tensor, level: Level) -> Tensor:
    """[B, T] importance weights: each token's own, or its response's on all of its tokens."""
    if level != "token":
        log_ratio = log_ratio.where(mask, 0.0).sum(-1, keepdim=True).expand_as(log_ratio)
    if level == "mean":
        log_ratio = log_ratio / mask.sum(-1, keepdim=True).clamp(min=1)
    return log_ratio.clamp(-20, 20).exp()
