"""CISPO: REINFORCE with a capped importance weight; what is clipped is the weight, never the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Objective, Reads, objective
from llmrl.objectives.terms import log_ratio, ratio_metrics, ratio_of, require, require_token_mean, share
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("cispo")
@dataclass(frozen=True, slots=True, kw_only=True)
class CISPO(Objective):
    """Every token keeps a gradient, however far its ratio has moved.

    MiniMax 2025, "MiniMax-M1", arXiv:2506.13585, section 3. The bounds are those of the ratio itself, as in
    TRL; where verl and slime say ``clip_high`` they mean ``ratio_cap - 1``. With the correction ``bypass`` it
    is AIPO of LlamaRL, arXiv:2505.24034.
    """

    ratio_cap: float = 5.0
    """Largest weight of a token."""
    ratio_floor: float = 0.0
    """Smallest weight of a token."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group"))

    def __post_init__(self) -> None:
        require(self.ratio_cap >= 1, "ratio_cap must be at least 1", self.ratio_cap)
        require(0 <= self.ratio_floor <= 1, "ratio_floor must lie in [0, 1]", self.ratio_floor)
        require_token_mean(self.mean_over)

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        drift = log_ratio(current, batch)
        ratio = ratio_of(drift.detach())
        weight = ratio.clamp(self.ratio_floor, self.ratio_cap)
        return Loss(
            value=-weight * batch.advantage * current.logp.where(batch.mask, 0.0),
            metrics={**ratio_metrics(drift, batch.mask), "clip_fraction": share(weight != ratio, batch.mask)},
        )

    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor:
        """The reward, on the policy's own samples."""
        return reward
