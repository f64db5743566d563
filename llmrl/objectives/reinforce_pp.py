"""REINFORCE++: PPO's clipped loss without a critic; advantages are whitened over all tokens of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.objectives.contract import Bundle, MeanOver, objective
from llmrl.objectives.grpo import GRPO
from llmrl.recipe.schema import Choice

WHITEN = (Choice(name="whiten"),)


@objective("reinforce_pp")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePP(GRPO):
    """The reward itself as credit; one response to a prompt is enough.

    Hu 2025, "REINFORCE++", arXiv:2501.03262. The paper's KL penalty in the reward is the shaping ``kl``, put
    before ``whiten``.
    """

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="reward"), shaping=WHITEN)


@objective("reinforce_pp_baseline")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePPBaseline(ReinforcePP):
    """The reward minus the mean of its group as credit; several responses to each prompt."""

    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="group", options={"scale": "none"}), shaping=WHITEN)
