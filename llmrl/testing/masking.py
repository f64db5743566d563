"""Checks of the mask: what lies outside of it weighs nothing, trains nothing and reaches nothing."""

from __future__ import annotations

import torch

from llmrl.objectives.contract import Objective
from llmrl.testing.finding import Fault, differs, worst
from llmrl.testing.gradient import Outcome, outcome
from llmrl.testing.tiny import nothing, tiny_update
from llmrl.testing.update import Update

PADDING = 5


def zero_outside_the_mask(objective: Objective, seed: int) -> None:
    """The gradient of a token that is not trained is exactly 0."""
    update = tiny_update(objective, seed)
    found = outcome(objective, update)
    _refuse_gradient_outside(found, update, "logp")
    _refuse_gradient_outside(found, update, "entropy")


def blind_outside_the_mask(objective: Objective, seed: int) -> None:
    """NaN outside the mask changes neither the loss nor any gradient inside.

    Scores and noise are planted. Advantages stay 0 there: a ratio of whole responses meets them at every
    token, and credit never is NaN.
    """
    update = tiny_update(objective, seed)
    expected, mask = outcome(objective, update), update.batch.mask
    planted = update.planted(torch.nan).with_advantage(update.batch.advantage)
    found = outcome(objective, planted)
    inside = found.logp.where(mask, 0.0)
    if differs(found.loss, expected.loss) or differs(inside, expected.logp):
        raise Fault(
            f"what lies outside the mask reaches the loss: with NaN planted there the loss is "
            f"{float(found.loss):.6g} instead of {float(expected.loss):.6g}, and its gradient at "
            f"{worst(inside, expected.logp)}. Sum over tokens only what `.where(batch.mask, 0.0)` has passed."
        )


def blind_to_padding(objective: Objective, seed: int) -> None:
    """More padding on the right changes nothing."""
    update = tiny_update(objective, seed)
    expected, found = outcome(objective, update), outcome(objective, update.widened(PADDING))
    narrow = found.logp[:, : update.width]
    if differs(found.loss, expected.loss) or differs(narrow, expected.logp):
        raise Fault(
            f"the gradient depends on how far rows are padded: with {PADDING} more tokens of padding, "
            f"{worst(narrow, expected.logp)}. Count with `batch.mask`, never with the width of a tensor."
        )


def calm_without_tokens(objective: Objective, seed: int) -> None:
    """A rank without rows adds a loss of 0, no gradient, and the metrics that the others have."""
    update = tiny_update(objective, seed)
    empty = outcome(objective, nothing(update))
    if empty.loss != 0 or (empty.logp != 0).any():
        raise Fault(
            f"rows without a trained token have loss {float(empty.loss):.6g} and gradient "
            f"{float(empty.logp.abs().max()):.6g}, both should be 0; an empty sum was divided by 0, or a "
            f"constant was added."
        )
    _refuse_other_metrics(objective, update)


def _refuse_gradient_outside(found: Outcome, update: Update, column: str) -> None:
    gradient = found.logp if column == "logp" else found.entropy
    if gradient is None:
        return
    outside = gradient.where(~update.batch.mask, 0.0)
    if (outside != 0).any():  # NaN is not 0 either
        raise Fault(
            f"gradient at padding: dL/d{column} outside the mask is {worst(outside, outside * 0)}. Only "
            f"tokens under `batch.mask` are trained: `.where(batch.mask, 0.0)` before summing over tokens."
        )


def _refuse_other_metrics(objective: Objective, update: Update) -> None:
    def names(of: Update) -> set[str]:
        return set(objective(of.current, of.batch).metrics)

    here, there = names(update), names(nothing(update))
    if here != there:
        raise Fault(
            f"rows without a trained token report {_listed(there)} and full ones {_listed(here)}; ranks add "
            f"metrics up by their place in the list, so every call reports the same names."
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no metrics"
