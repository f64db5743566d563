"""Shaping: changes to advantages once the policy's own scores of the whole step are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmrl.objectives.contract import Reads
from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch


class Shaping(Protocol):
    """A frozen dataclass whose fields are its options; called once per step, whatever the split of the work.

    Inherit from this class and declare only what differs from the defaults.
    """

    @property
    def reads(self) -> frozenset[Reads]:
        """Optional columns that it needs besides ``old``."""
        return frozenset()

    def __call__(self, batch: Batch, /) -> Tensor:
        """[B, T] new advantages for all rows of the step; exactly 0 outside ``batch.mask``.

        ``batch.old`` is the policy before the step's first update, ``batch.advantage`` what credit and
        the shapings before this one made.
        """
        ...


shaping: Registry[Shaping] = Registry("shaping", base=Shaping)


@shaping("whiten")
@dataclass(frozen=True, slots=True, kw_only=True)
class Whiten(Shaping):
    """Mean 0 and variance 1 over all trained tokens of the step (REINFORCE++).

    Source: Hu et al. 2025, "REINFORCE++", arXiv:2501.03262, equation 5, with the unbiased variance.
    """

    eps: float = 1e-8
    """Constant added to the variance."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")

    def __call__(self, batch: Batch) -> Tensor:
        advantage = batch.advantage.double()
        tokens = batch.mask.sum()
        centred = (advantage - advantage.sum() / tokens.clamp(min=1)).where(batch.mask, 0.0)
        variance = centred.square().sum() / (tokens - 1).clamp(min=1)
        return (centred / (variance + self.eps).sqrt()).to(batch.advantage.dtype)


@shaping("kl")
@dataclass(frozen=True, slots=True, kw_only=True)
class KL(Shaping):
    """A price on leaving the reference, paid token by token: KL in the reward, not in the loss.

    A token pays for itself and for every later one of its response, as its choice leads there; the price is
    k1, the difference of the logps. Source: Ouyang et al. 2022, arXiv:2203.02155, equation 2.
    """

    weight: float = 0.05
    """Reward that a nat costs."""
    discount: float = 1.0
    """Factor for each trained token between the price and the token that pays."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, got {self.weight}")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must lie in (0, 1], got {self.discount}")

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"reference"})

    def __call__(self, batch: Batch) -> Tensor:
        assert batch.reference is not None  # promised by reads
        price = self.weight * (batch.old.logp - batch.reference.logp).where(batch.mask, 0.0)
        return (batch.advantage - to_go(price, batch.mask, self.discount)).to(batch.advantage.dtype)


def to_go(values: Tensor, mask: Tensor, discount: float) -> Tensor:
    """[B, T] sum of a token's value and the later ones of its row, discounted by trained tokens between.

    Args:
        values: [B, T], 0 outside the mask.
        mask: [B, T] bool; the result is 0 outside it, and positions outside it between two trained tokens
            discount nothing.
    """
    total = values.double().clone()
    factor = total.new_full(total.shape, discount).where(mask, 1.0)
    reach = 1
    while reach < total.shape[-1]:
        # Each total covers `reach` positions; joined with the one behind it, it covers twice as many.
        total[..., :-reach], factor[..., :-reach] = (
            total[..., :-reach] + factor[..., :-reach] * total[..., reach:],
            factor[..., :-reach] * factor[..., reach:],
        )
        reach *= 2
    return total.where(mask, 0.0).to(values.dtype)
