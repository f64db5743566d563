"""DPO and its relatives: losses of the margin between a preferred response and another one.

Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290, equation 7. A response scores the
log-ratio of policy over reference; the margin of a pair is the score of the preferred response minus the
other's. Each class below is one function of the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from llmrl.objectives.contract import Bundle, Loss, MeanOver, Objective, Reads, objective
from llmrl.objectives.pairs import log_ratios, log_sigmoid, margins, pair_metrics
from llmrl.recipe.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

OFFLINE = Bundle(trains_on="pairs", correction=Choice(name="none"))
"""Bundle for the dataset's own pairs."""

ONLINE = Bundle(pairing=Choice(name="extremes"), correction=Choice(name="none"))
"""Bundle for the policy's own responses, the best of each group against the worst."""


@objective("dpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class DPO(Objective):
    """The negative log-likelihood of the preferences under a Bradley-Terry model of the scores."""

    beta: float = 0.1
    """Reward per nat of log-ratio: a small one lets the policy move far from the reference."""
    score: Literal["sum", "mean"] = "sum"
    """Aggregation of a response's log-ratio: summed over tokens, or averaged as in length-normalised DPO."""

    mean_over: MeanOver = field(default="pairs", init=False)
    bundle: ClassVar[Bundle] = OFFLINE

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, got {self.beta}")

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"reference"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        assert batch.reference is not None  # promised by reads
        log_ratio = log_ratios(current, batch.reference, batch.mask)
        score = log_ratio if self.score == "sum" else log_ratio / batch.mask.sum(-1).clamp(min=1)
        return Loss(value=self.of_margin(margins(score, batch)), metrics=pair_metrics(log_ratio, batch))

    def of_margin(self, margin: Tensor) -> Tensor:
        """[P] losses of [P] margins in nats."""
        return -log_sigmoid(self.beta * margin)


@objective("hinge")
@dataclass(frozen=True, slots=True, kw_only=True)
class Hinge(DPO):
    """Asks for a margin of ``1 / beta`` nats and for nothing beyond it.

    Zhao et al. 2023, "SLiC-HF", arXiv:2305.10425, with the log-ratio in place of the likelihood.
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        return (1 - self.beta * margin).clamp(min=0)


@objective("ipo")
@dataclass(frozen=True, slots=True, kw_only=True)
class IPO(DPO):
    """Pulls each margin to ``1 / (2 beta)`` nats, so that sure preferences cannot push it to infinity.

    Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    arXiv:2310.12036, equation 17. Public code has two conventions with different fixed points: ``score =
    "sum"`` is the paper's equation and that of the DPO authors' code and OpenRLHF, ``score = "mean"`` that of
    TRL's offline trainer.
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        return (margin - 1 / (2 * self.beta)).square()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flipped(DPO):
    """The common part of the two losses for labels that may be wrong."""

    flipped: float = 0.1
    """Share of the pairs whose labels are believed to be swapped."""

    def __post_init__(self) -> None:
        DPO.__post_init__(self)
        if not 0 <= self.flipped < 0.5:
            raise ValueError(f"flipped must lie in [0, 0.5), got {self.flipped}")


@objective("cdpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConservativeDPO(Flipped):
    """The cross-entropy against smoothed labels: the margin stops where its odds are those of a right label.

    Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", ericmitchell.ai/cdpo.pdf.
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        reward = self.beta * margin
        return -(1 - self.flipped) * log_sigmoid(reward) - self.flipped * log_sigmoid(-reward)


@objective("rdpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class RobustDPO(Flipped):
    """The DPO loss of the true labels, estimated without bias from labels that are partly swapped.

    Ray Chowdhury et al. 2024, "Provably Robust DPO", arXiv:2403.00409. Unbounded below: its
    slope in the margin never falls under ``beta * flipped / (1 - 2 * flipped)``, so the loss is often
    negative, says little about progress, and needs the gradient's norm to be clipped.
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        reward = self.beta * margin
        unlike = (1 - self.flipped) * log_sigmoid(reward) - self.flipped * log_sigmoid(-reward)
        return -unlike / (1 - 2 * self.flipped)


@objective("online_dpo")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineDPO(DPO):
    """DPO on responses of the policy itself, compared while it trains.

    Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback", arXiv:2402.04792.
    """

    bundle: ClassVar[Bundle] = ONLINE


@objective("online_ipo")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineIPO(IPO):
    """IPO on responses of the policy itself; its fixed point is the Nash equilibrium of self-play.

    Calandriello et al. 2024, "Human Alignment of Large Language Models through Online Preference
    Optimisation", arXiv:2403.08635.
    """

    bundle: ClassVar[Bundle] = ONLINE
