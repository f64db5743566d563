"""A claim: one quantity of a vector, as llmrl computes it and as the vector has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

ATOL, RTOL = 5e-9, 1e-9
"""Tolerances in float64; the authors' epsilons of 1e-8 in denominators make differences of this size."""

Kind = Literal["loss", "gradient", "other"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim:
    """Two tensors that should be equal, or for a negative vector differ."""

    quantity: str
    """Name of the quantity in the vector."""
    kind: Kind
    ours: Tensor
    theirs: Tensor
    exact: bool = False
    """Whether they must agree to the last bit."""
    negative: bool = False
    """Whether they must differ."""

    @property
    def gap(self) -> float:
        """The largest difference; infinite where shapes differ, or a number is not finite."""
        if self.ours.shape != self.theirs.shape:
            return math.inf
        if not self.ours.numel():
            return 0.0
        gap = float((self.ours - self.theirs).abs().max())
        return math.inf if math.isnan(gap) else gap

    @property
    def holds(self) -> bool:
        """Whether the tensors agree, or differ, as the vector requires."""
        if self.exact or not math.isfinite(self.gap):
            return self.gap == 0
        close = (self.ours - self.theirs).abs() <= ATOL + RTOL * self.theirs.abs()
        return bool(close.all()) != self.negative


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The results of llmrl on a vector."""

    by: str
    """Parts of llmrl that computed it, as a recipe names them."""
    claims: Sequence[Claim]
