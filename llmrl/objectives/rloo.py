"""RLOO: REINFORCE on whole responses, with the mean reward of the group's others as baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from llmrl.objectives.contract import Bundle, MeanOver, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import log_ratio, require
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("rloo")
@dataclass(frozen=True, slots=True, kw_only=True)
class RLOO(GRPO):
    """A response is one action; its ratio is the product of its tokens' ratios, clipped as a whole.

    Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740; the clipped ratio is TRL's, in the token form of
    GSPO: each token's gradient has its own advantage, and where these are equal it is the response's. With
    ``ratio = "token"`` and ``mean_over = 1`` a step's first update is the same, and later ones clip token by
    token.
    """

    ratio: Literal["sequence", "token"] = "sequence"
    """Ratio of whole responses, which leaves the trust region soon if they are long; or of each token."""

    mean_over: MeanOver = "responses"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="leave_one_out"))

    def __post_init__(self) -> None:
        GRPO.__post_init__(self)
        allowed = self.ratio == "token" or self.mean_over == "responses"
        require(allowed, 'mean_over must be "responses" with ratio = "sequence"', self.mean_over)

    def log_ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        token = log_ratio(current, batch)
        if self.ratio == "token":
            return token
        # Every token has the value of the whole response's, and the gradient of its own times the tokens that
        # the mean divides by: advantages may differ within a response.
        whole, tokens = token.detach().sum(-1, keepdim=True), batch.mask.sum(-1, keepdim=True)
        return (whole + tokens * (token - token.detach())).where(batch.mask, 0.0)
