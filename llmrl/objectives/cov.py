"""Clip-Cov and KL-Cov: the few tokens that drive entropy down most are left out, or held back.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", arXiv:2505.22617. A policy loses entropy
through tokens whose logp and advantage covary. Both methods rank the tokens of the whole update; the public
code ranks those of each micro-batch, so that memory settings change what it computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Objective, Reads, Scope, objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import (
    LARGEST,
    beyond,
    covariance,
    drawn,
    log_ratio,
    ratio_metrics,
    ratio_of,
    require,
    require_token_mean,
    share,
    token_kl,
    topmost,
)
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

BUNDLE = Bundle(credit=Choice(name="group"), keep=Choice(name="varied"))


def covariance_of(current: TokenScores, batch: Batch) -> Tensor:
    """[B, T] covariances, with credit before any correction, which does not concern entropy."""
    credit = batch.advantage if batch.credit is None else batch.credit
    return covariance(current.logp, credit, batch.mask)


def chosen_of(mask: Tensor, fraction: float) -> int:
    """Number of tokens to choose: a fraction of all, rounded down, and at least one."""
    return max(int(fraction * int(mask.sum())), 1)


@objective("clip_cov")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCov(GRPO):
    """Drops a random few of the tokens with a high covariance: they have neither value nor gradient.

    They stay in the mean's denominator, and are never tokens that PPO clips anyway.
    """

    clip_low: float = 1.0
    """Below ``1 - clip_low`` the ratio stops paying for a token that should become rarer; 1 has no bound."""
    clip_high: float = 1.0
    """Above ``1 + clip_high`` it stops paying for a token that should become likelier."""
    fraction: float = 2e-4
    """Share of the update's tokens that are left out; at least one token is, if any is a candidate."""
    cov_low: float = 1.0
    """Lower bound of a candidate's covariance."""
    cov_high: float = 5.0
    """Upper bound of a candidate's covariance."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = BUNDLE
    always_reads: ClassVar[frozenset[Reads]] = frozenset({"old", "noise"})

    def __post_init__(self) -> None:
        GRPO.__post_init__(self)
        require(0 < self.fraction <= 1, "fraction must lie in (0, 1]", self.fraction)
        require(
            self.cov_low < self.cov_high, f"cov_low must lie below cov_high = {self.cov_high}", self.cov_low
        )

    @property
    def scope(self) -> Scope:
        return "step"

    def policy_loss(self, current: TokenScores, batch: Batch) -> Loss:
        loss = GRPO.policy_loss(self, current, batch)
        chosen = self._chosen(current, batch)
        return Loss(
            value=loss.value.where(~chosen, 0.0),
            metrics={**loss.metrics, "cov_fraction": share(chosen, batch.mask)},
        )

    @property
    def estimates_reward(self) -> bool:
        """False: some tokens are left out on purpose."""
        return False

    def _chosen(self, current: TokenScores, batch: Batch) -> Tensor:
        assert batch.noise is not None  # promised by reads
        below, above = beyond(
            ratio_of(log_ratio(current, batch)), batch.advantage, self.clip_low, self.clip_high
        )
        cov = covariance_of(current, batch)
        candidates = batch.mask & ~below & ~above & (self.cov_low < cov) & (cov < self.cov_high)
        return drawn(candidates, batch.noise, chosen_of(batch.mask, self.fraction))


@objective("kl_cov")
@dataclass(frozen=True, slots=True, kw_only=True)
class KLCov(Objective):
    """The tokens with the highest covariance pay for leaving ``old``; nothing is clipped.

    The penalty is the absolute log-ratio, so where a step makes one update it has no
    gradient. The paper's 7B model has ``fraction = 0.002``, its 32B model 0.0002.
    """

    fraction: float = 0.002
    """Share of the update's tokens that pay; at least one does."""
    weight: float = 1.0
    """Weight of the penalty."""

    mean_over: MeanOver = "tokens"
    bundle: ClassVar[Bundle] = BUNDLE

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction must lie in (0, 1]", self.fraction)
        require(0 <= self.weight < math.inf, "weight must be finite and not negative", self.weight)
        require_token_mean(self.mean_over)

    @property
    def scope(self) -> Scope:
        return "step"

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old", "noise"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        assert batch.noise is not None  # promised by reads
        drift = log_ratio(current, batch).clamp(-LARGEST, LARGEST)
        cov = covariance_of(current, batch)
        chosen = topmost(cov, batch.mask, batch.noise, chosen_of(batch.mask, self.fraction))
        penalty = (self.weight * token_kl(drift, "abs")).where(chosen, 0.0)
        return Loss(
            value=-batch.advantage * ratio_of(drift) + penalty,
            metrics={**ratio_metrics(drift, batch.mask), "cov_fraction": share(chosen, batch.mask)},
        )

    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor:
        """The reward, on the policy's own samples, where the penalty has no gradient."""
        return reward
