"""The whole algorithm of a stage: the objective, and the parts of its bundle that the recipe did not replace."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.experience.correction import Correction, correction
from llmrl.experience.credit import Credit, credit
from llmrl.experience.keep import Keep, keep
from llmrl.objectives.contract import Objective, objective
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
        chosen: Objective = objective.build(stage.objective.name, stage.objective.options, key="objective")
        parts = {"credit": credit, "keep": keep, "correction": correction}
        tables = {kind: getattr(stage, kind) or getattr(chosen.bundle, kind) for kind in parts}
        built = {
            kind: parts[kind].build(table.name, table.options, key=kind) for kind, table in tables.items()
        }
        return cls(objective=chosen, **built)
