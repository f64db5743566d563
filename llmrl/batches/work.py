"""The cost of rows: the FLOPs of a forward pass over them, from the sizes of the model that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """FLOPs of a forward pass; the backward pass has twice as many of each kind."""

    per_token: float
    """FLOPs of all matrices but the head, for each token that is read."""
    per_scored: float
    """FLOPs of the head, for each token that is scored."""
    per_square: float
    """FLOPs of causal attention: a sequence of s tokens costs s squared times this."""

    def of(self, *, tokens: Numbers, scored: Numbers, squares: Numbers) -> NDArray[np.float64]:
        """[R] FLOPs of each row, from its numbers of tokens and scored tokens, and its squared lengths."""
        return self.per_token * tokens + self.per_scored * scored + self.per_square * squares
