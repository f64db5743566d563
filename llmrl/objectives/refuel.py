"""REFUEL and REBEL: the difference of two log-ratios is regressed on the difference of two rewards.

Gao et al. 2024, "Regressing the Relative Future: Efficient Policy Optimization for Multi-turn RLHF",
arXiv:2410.04612; and Gao et al. 2024, "REBEL", arXiv:2404.16767. Both are written as
in the authors' code, which multiplies the papers' loss by the square of ``eta``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Objective, Reads, objective
from llmrl.objectives.pairs import log_ratios, margins, pair_metrics
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from llmrl.batches.batch import Batch, TokenScores


@objective("rebel")
@dataclass(frozen=True, slots=True, kw_only=True)
class REBEL(Objective):
    """Two responses to one prompt; the order inside a pair does not matter.

    The log-ratios are against ``old``, which with correction ``bypass`` is what the engine reported: the
    policy that made the data, also where a step makes several updates.
    """

    eta: float = 1.0
    """Nats of log-ratio that a reward of 1 is worth; the scale of the rewards decides it."""
    kl_weight: float = 0.0
    """Weight of KL(old || reference), taken off the rewards; 0 needs no reference model."""

    mean_over: MeanOver = field(default="pairs", init=False)
    bundle: ClassVar[Bundle] = Bundle(pairing=Choice(name="in_order"), correction=Choice(name="bypass"))

    def __post_init__(self) -> None:
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta must be finite and above 0, got {self.eta}")
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight must be finite and not negative, got {self.kl_weight}")

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old", "reference"}) if self.kl_weight else frozenset({"old"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        reward = batch.reward
        if batch.reference is not None:
            reward = reward - self.kl_weight * log_ratios(batch.old, batch.reference, batch.mask)
        log_ratio = log_ratios(current, batch.old, batch.mask)
        error = margins(log_ratio - self.eta * reward, batch)
        return Loss(value=error.square(), metrics=pair_metrics(log_ratio, batch))


@objective("refuel")
@dataclass(frozen=True, slots=True, kw_only=True)
class REFUEL(REBEL):
    """Two conversations that share their beginning and branch at one turn.

    Only the tokens of the branching turn are trained, and the reward is that of the whole conversation: what
    is regressed is the difference of two values to come. With every turn trained it would be REBEL.
    """

    bundle: ClassVar[Bundle] = replace(REBEL.bundle, branches=2)
