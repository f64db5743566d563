"""Checks of what an objective declares: its bundle can be built, and `reads` names every column it needs."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmrl.errors import RecipeError
from llmrl.experience.correction import correction
from llmrl.experience.credit import credit
from llmrl.experience.keep import keep
from llmrl.experience.pairing import pairing
from llmrl.objectives.contract import Objective
from llmrl.objectives.shaping import shaping
from llmrl.rewards.reward import build_rewards
from llmrl.testing.finding import Fault
from llmrl.testing.gradient import outcome
from llmrl.testing.tiny import compares, tiny_update

UNITS = ("tokens", "responses", "budget", "pairs")


def sound_declaration(objective: Objective, _seed: int) -> None:
    """``mean_over`` and ``scope`` are known, and every part of the bundle exists."""
    unit = objective.mean_over
    if not (unit in UNITS if isinstance(unit, str) else unit > 0):
        raise Fault(f"mean_over must be one of {', '.join(UNITS)} or a number above 0, got {unit!r}.")
    if unit == "pairs" and not compares(objective):
        raise Fault('mean_over is "pairs", but its bundle has no pairing and does not train on pairs.')
    if objective.scope not in ("token", "step"):
        raise Fault(f'scope must be "token" or "step", got {objective.scope!r}.')
    try:
        _build(objective)
    except RecipeError as error:
        raise Fault(f"its bundle cannot be built: {error}") from None


def reads_what_it_declares(objective: Objective, seed: int) -> None:
    """The columns that ``reads`` does not name stay untouched."""
    update = tiny_update(objective, seed)
    if "old" in objective.reads:
        return
    expected = outcome(objective, update)
    old = update.batch.old
    unknown = replace(old, logp=torch.full_like(old.logp, torch.nan))
    found = outcome(objective, replace(update, batch=replace(update.batch, old=unknown)))
    if not (torch.equal(found.loss, expected.loss) and torch.equal(found.logp, expected.logp)):
        raise Fault('it reads batch.old without naming "old" in `reads`, so nothing would compute it.')


def _build(objective: Objective) -> None:
    bundle = objective.bundle
    credit.build(bundle.credit.name, bundle.credit.options, key="credit")
    keep.build(bundle.keep.name, bundle.keep.options, key="keep")
    pairing.build(bundle.pairing.name, bundle.pairing.options, key="pairing")
    correction.build(bundle.correction.name, bundle.correction.options, key="correction")
    for one in bundle.shaping:
        shaping.build(one.name, one.options, key="shaping")
    build_rewards(bundle.rewards)
