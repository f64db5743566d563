"""SFT: the negative log-likelihood of demonstrations. The warm start of most recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Objective, objective
from llmrl.objectives.terms import require_token_mean
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from llmrl.batches.batch import Batch, TokenScores


@objective("sft")
@dataclass(frozen=True, slots=True, kw_only=True)
class SFT(Objective):
    """Cross-entropy of the response tokens, averaged over all tokens of the step."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(trains_on="demonstrations", correction=Choice(name="none"))

    def __post_init__(self) -> None:
        require_token_mean(self.mean_over)

    def __call__(self, current: TokenScores, _batch: Batch) -> Loss:
        return Loss(value=-current.logp)
