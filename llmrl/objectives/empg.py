"""EMPG: confident turns learn more than uncertain ones, and leading to a confident turn is worth something.

Wang et al. 2025, "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents",
arXiv:2509.09265, equations 7 to 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, MeanOver, Reads, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.shaping import Shaping, shaping
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch

EPS = 1e-8
"""Added to both divisors, as in the paper's code."""


@objective("empg")
@dataclass(frozen=True, slots=True, kw_only=True)
class EMPG(GRPO):
    """The clipped loss of DAPO, on group credit that the shaping ``empg`` has modulated."""

    clip_high: float = 0.28
    """Above ``1 + clip_high`` the ratio stops paying for a token that should become likelier."""
    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(shaping=(Choice(name="empg"),))


@shaping("empg")
@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyModulation(Shaping):
    """Advantages by the entropy of whole turns, which it compares over all turns of the step.

    A turn's entropy H is the mean over its trained tokens, scaled to 0 .. 1 over the step. A turn's advantage
    is multiplied by exp(-k H), whose mean over turns is made 1; it then gets ``zeta`` exp(-k_next H') for the
    H' of the response's next turn; and the mean over turns, each with one vote, is subtracted.
    """

    k: float = 1.0
    """Reduction of the learning of uncertain turns."""
    k_next: float = 1.0
    """Reduction of the bonus before uncertain turns."""
    zeta: float = 0.1
    """Largest bonus, in units of the advantage."""

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("k_next", self.k_next), ("zeta", self.zeta)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"entropy"})

    def __call__(self, batch: Batch) -> Tensor:
        assert batch.old.entropy is not None  # promised by reads
        turns = _Turns(batch)
        entropy = turns.mean(batch.old.entropy)
        low = entropy.where(turns.exist, math.inf).min()
        high = entropy.where(turns.exist, -math.inf).max()
        uncertain = (entropy - low) / (high - low + EPS)
        scale = (-self.k * uncertain).exp()
        scale = scale / (turns.vote(scale) + EPS)
        bonus = entropy.new_zeros(entropy.shape)
        bonus[:, :-1] = self.zeta * (-self.k_next * uncertain).exp().where(turns.exist, 0.0)[:, 1:]
        modulated = batch.advantage * turns.on_tokens(scale) + turns.on_tokens(bonus)
        centred = modulated - turns.vote(turns.mean(modulated))
        return centred.where(batch.mask, 0.0).to(batch.advantage.dtype)


class _Turns:
    """The turns of a step as [B, S]: S is the most turns of a response."""

    def __init__(self, batch: Batch) -> None:
        self._mask, self._turn = batch.mask, batch.turn
        self._turns = int(batch.turn.max()) + 1
        # In float64, as a GPU adds in any order: in float32 the sums could then differ between ranks.
        self._tokens = self._total(batch.mask.double())
        self.exist = self._tokens > 0
        """[B, S] bool, True for turns with trained tokens."""

    def mean(self, values: Tensor) -> Tensor:
        """[B, S] means over the trained tokens of each turn, of values [B, T]."""
        return self._total(values.double().where(self._mask, 0.0)) / self._tokens.clamp(min=1)

    def vote(self, values: Tensor) -> Tensor:
        """The mean of [B, S] values over all turns of the step."""
        return values.where(self.exist, 0.0).sum() / self.exist.sum().clamp(min=1)

    def on_tokens(self, values: Tensor) -> Tensor:
        """[B, T] the value of each token's turn."""
        return values.gather(1, self._turn)

    def _total(self, values: Tensor) -> Tensor:
        empty = values.new_zeros(values.shape[0], self._turns)
        return empty.scatter_add(1, self._turn, values)
