"""Nash-MD and Nash-EMA: policy gradients of the preference over an opponent, held to the reference.

Munos et al. 2023, "Nash Learning from Human Feedback", arXiv:2312.00886, equation 13 and appendix F.2. The
Nash equilibrium of a preference needs no reward that explains it, so a cyclic one has it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from llmrl.objectives.contract import Bundle, Estimates, Loss, Mean, MeanOver, Objective, Reads, objective
from llmrl.objectives.terms import require, require_token_mean
from llmrl.recipe.schema import Choice, Opponent

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@objective("nash_md")
@dataclass(frozen=True, slots=True, kw_only=True)
class NashMD(Objective, Estimates):
    """The opponent is the geometric mixture of policy and reference, token by token.

    Strictly on-policy: there is no ratio, so the correction must make up for what is older.
    """

    kl_weight: float = 0.008
    """Weight of KL(policy || reference) against the preference; the paper's tau."""
    kl: Literal["reward_to_go", "sequence", "token"] = "reward_to_go"
    """Part of the log-ratio that each token is charged with: its own and all later ones, the whole
    response's, or only its own, as in TRL. The first two give the KL's gradient on average, the first with
    less noise; the third does not, as it forgets a token's effect on later ones."""

    mean_over: MeanOver = 1
    bundle: ClassVar[Bundle] = Bundle(
        credit=Choice(name="preference"), opponent=Opponent(kind="mixture", mixture=0.25)
    )

    def __post_init__(self) -> None:
        require(0 <= self.kl_weight < math.inf, "kl_weight must be finite and not negative", self.kl_weight)
        require_token_mean(self.mean_over)

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"reference"}) if self.kl_weight else frozenset()

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        if batch.reference is None:
            return Loss(value=-batch.advantage * current.logp)
        drift = (current.logp.detach() - batch.reference.logp).where(batch.mask, 0.0)
        charge = self.kl_weight * self._charged(drift)
        metrics = {"kl_reference": Mean(value=drift, where=batch.mask)}
        return Loss(value=(charge - batch.advantage) * current.logp, metrics=metrics)

    def _charged(self, drift: Tensor) -> Tensor:
        """[B, T] log-ratio that each token is charged with, from that of each token alone."""
        if self.kl == "token":
            return drift
        if self.kl == "sequence":
            return drift.sum(-1, keepdim=True).expand_as(drift)
        return drift.flip(-1).cumsum(-1).flip(-1)

    def worth(self, reward: Tensor, log_ratio: Tensor) -> Tensor | None:
        """The preference minus the KL's price; None for the token form: its gradient is no expectation's."""
        return None if self.kl == "token" else reward - self.kl_weight * log_ratio


@objective("nash_ema")
@dataclass(frozen=True, slots=True, kw_only=True)
class NashEMA(NashMD):
    """The opponent is the moving average of the policy's own weights."""

    bundle: ClassVar[Bundle] = Bundle(
        credit=Choice(name="preference"), opponent=Opponent(kind="average", decay=0.999)
    )
