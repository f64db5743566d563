"""RiskPO: PPO's clipped loss on credit for bundles of questions, of which those in the lower tail count most.

Ren et al. 2025, "RiskPO: Risk-based Policy Optimization via Verifiable Reward", arXiv:2510.00911.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from llmrl.objectives.contract import Bundle, MeanOver, objective
from llmrl.objectives.gspo import GSPO
from llmrl.objectives.terms import log_ratio
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("riskpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class RiskPO(GSPO):
    """RiskPO as in the authors' code: the ratio of tokens, a dual clip, the mean over tokens.

    As in the paper: ``ratio = "response"``, ``mean_over = "responses"``, a ``dual_clip`` out of reach, and
    the credit ``riskpo_paper``.
    """

    clip_low: float = 0.2
    """Below ``1 - clip_low`` the ratio stops paying for a token that should become rarer."""
    clip_high: float = 0.2
    """Above ``1 + clip_high`` it stops paying for a token that should become likelier."""
    dual_clip: float | None = 3.0
    """Largest ratio that a token with negative advantage is charged for."""
    ratio: Literal["token", "response"] = "token"
    """Ratio of each token, or the geometric mean over the response."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="riskpo"))

    def log_ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        return log_ratio(current, batch) if self.ratio == "token" else GSPO.log_ratio(self, current, batch)
