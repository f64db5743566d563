"""GSPO: the ratio of a response is the geometric mean of its tokens' ratios, and is clipped as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrl.objectives.contract import MeanOver, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import log_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("gspo")
@dataclass(frozen=True, slots=True, kw_only=True)
class GSPO(GRPO):
    """GRPO with a ratio of whole responses, whose log is the mean over tokens; so its bounds are narrow.

    Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071, in its token form: the
    value is the response's, the gradient the token's own, so advantages may differ within a response; where
    they do not, it has the gradient of the sequence form.
    """

    clip_low: float = 3e-4
    """Below ``1 - clip_low`` the ratio stops paying for a response that should become rarer."""
    clip_high: float = 4e-4
    """Above ``1 + clip_high`` it stops paying for a response that should become likelier."""

    mean_over: MeanOver = "responses"

    def log_ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        token = log_ratio(current, batch)
        mean = token.detach().sum(-1, keepdim=True) / batch.mask.sum(-1, keepdim=True).clamp(min=1)
        return mean + (token - token.detach())
