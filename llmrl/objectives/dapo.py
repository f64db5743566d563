"""DAPO: more room upwards than downwards, equal weight for every token, and only groups that teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.objectives.contract import Bundle, MeanOver, objective
from llmrl.objectives.grpo import GRPO
from llmrl.recipe.schema import Choice, Reward


@objective("dapo")
@dataclass(frozen=True, slots=True, kw_only=True)
class DAPO(GRPO):
    """GRPO with clip-higher, token mean, dynamic sampling, and a soft penalty for overlong responses.

    Yu et al. 2025, "DAPO", arXiv:2503.14476, equation 8. The public recipe also sets ``dual_clip = 10``.
    """

    clip_high: float = 0.28
    """Above ``1 + clip_high`` it stops paying for a token that should become likelier."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(
        credit=Choice(name="group"),
        # By the recipe's own reward: with the penalty in it, a jitter of lengths would let every group pass.
        keep=Choice(name="varied", options={"by": "first"}),
        rewards={"overlong": Reward(kind="overlong")},
    )
