"""The whole algorithm of a stage: its objective, and what the recipe leaves of the objective's bundle."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.experience.correction import Correction, correction
from llmrl.experience.credit import Credit, credit
from llmrl.experience.keep import Keep, keep
from llmrl.objectives.contract import Bundle, Objective, objective
from llmrl.recipe.schema import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Every part built and its options checked."""

    objective: Objective
    credit: Credit
    keep: Keep
    correction: Correction

    @classmethod
    def of(cls, stage: Stage) -> Algorithm:
        """What ``stage`` describes.

        Raises:
            RecipeError: an unknown name or option, or a value that a part refuses.
        """
        bundle = bundle_of(stage)
        return cls(
            objective=objective_of(stage),
            credit=credit.build(bundle.credit.name, bundle.credit.options, key="credit"),
            keep=keep.build(bundle.keep.name, bundle.keep.options, key="keep"),
            correction=correction.build(bundle.correction.name, bundle.correction.options, key="correction"),
        )


def objective_of(stage: Stage) -> Objective:
    """The objective of a stage.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
    """
    return objective.build(stage.objective.name, stage.objective.options, key="objective")


def bundle_of(stage: Stage) -> Bundle:
    """What the objective of a stage brings along, with the parts that the recipe replaces.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
    """
    own = objective_of(stage).bundle
    return Bundle(
        credit=stage.credit or own.credit,
        keep=stage.keep or own.keep,
        correction=stage.correction or own.correction,
        demonstrations=own.demonstrations,
    )
