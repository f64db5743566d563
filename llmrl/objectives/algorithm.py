"""The whole algorithm of a stage: its objective, and the parts that the recipe keeps of its bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrl.experience.correction import Correction, correction
from llmrl.experience.credit import Credit, credit
from llmrl.experience.keep import Keep, keep
from llmrl.experience.pairing import Pairing, pairing
from llmrl.objectives.contract import Bundle, Objective, Reads, objective
from llmrl.objectives.shaping import Shaping, shaping
from llmrl.recipe.schema import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """The parts of an algorithm, built and with their options checked."""

    objective: Objective
    bundle: Bundle
    credit: Credit
    keep: Keep
    pairing: Pairing
    shaping: tuple[Shaping, ...]
    correction: Correction

    @classmethod
    def of(cls, stage: Stage) -> Algorithm:
        """The algorithm that ``stage`` describes.

        Raises:
            RecipeError: an unknown name or option, or a value that a part refuses.
        """
        bundle = bundle_of(stage)
        return cls(
            objective=objective_of(stage),
            bundle=bundle,
            credit=credit.build(bundle.credit.name, bundle.credit.options, key="credit"),
            keep=keep.build(bundle.keep.name, bundle.keep.options, key="keep"),
            pairing=_pairing_of(bundle),
            shaping=tuple(
                shaping.build(one.name, one.options, key=f"shaping.{number}")
                for number, one in enumerate(bundle.shaping)
            ),
            correction=correction.build(bundle.correction.name, bundle.correction.options, key="correction"),
        )

    @property
    def reads(self) -> frozenset[Reads]:
        """Optional columns that some part needs."""
        return self.objective.reads.union(*(shape.reads for shape in self.shaping))

    @property
    def online(self) -> bool:
        """Whether it trains on sampled responses."""
        return self.bundle.trains_on == "rollouts"

    def needs_old(self, updates: int) -> bool:
        """Whether a step of ``updates`` updates is scored before its first one."""
        compared = self.online or "old" in self.objective.reads
        return self.objective.scope == "step" or bool(self.shaping) or (updates > 1 and compared)


def objective_of(stage: Stage) -> Objective:
    """The objective of a stage.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
    """
    return objective.build(stage.objective.name, stage.objective.options, key="objective")


def responses_together(stage: Stage) -> int:
    """Most responses to a prompt that pairs connect, one with the next: they share a micro-batch.

    Raises:
        RecipeError: an unknown objective or pairing, or an option that it refuses.
    """
    bundle = bundle_of(stage)
    if bundle.trains_on == "pairs":
        return 2
    return _pairing_of(bundle).together or stage.rollouts.per_prompt + bundle.opponent.responses


def responses_trained(stage: Stage) -> int:
    """Most responses to a prompt that a step trains on, an opponent's included.

    Raises:
        RecipeError: an unknown objective or pairing, or an option that it refuses.
    """
    bundle = bundle_of(stage)
    if bundle.trains_on == "rollouts":
        return _pairing_of(bundle).paired(stage.rollouts.per_prompt, bundle.opponent.responses)
    return {"demonstrations": 1, "pairs": 2}[bundle.trains_on]


def _pairing_of(bundle: Bundle) -> Pairing:
    return pairing.build(bundle.pairing.name, bundle.pairing.options, key="pairing")


def bundle_of(stage: Stage) -> Bundle:
    """The bundle of a stage's objective, with the parts that the recipe replaces.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
    """
    own = objective_of(stage).bundle
    return replace(
        own,
        credit=stage.credit or own.credit,
        keep=stage.keep or own.keep,
        pairing=stage.pairing or own.pairing,
        shaping=own.shaping if stage.shaping is None else stage.shaping,
        correction=stage.correction or own.correction,
        opponent=stage.opponent or own.opponent,
        branches=stage.rollouts.branches or own.branches,
        # The recipe's own come first, as the first one decides what evaluation counts as correct.
        rewards={**stage.rewards, **{k: v for k, v in own.rewards.items() if k not in stage.rewards}},
    )
