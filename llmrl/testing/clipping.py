"""The check of clip bounds: each one binds on its own side of 1, and only there."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, cast

import torch

from llmrl.batches.batch import TokenScores
from llmrl.objectives.contract import Objective
from llmrl.testing.finding import Fault, LeftOut, differs
from llmrl.testing.gradient import Outcome, outcome
from llmrl.testing.tiny import tiny_update
from llmrl.testing.update import Update


def clips_where_it_says(objective: Objective, seed: int) -> None:
    """``clip_low`` matters only below a ratio of 1, ``clip_high`` only above it."""
    low, high = _bounds(objective)
    above = _drifted(tiny_update(objective, seed), seed, 1.0, 1 + 2 * high)
    below = _drifted(tiny_update(objective, seed), seed, max(0.05, 1 - 2 * low), 1.0)
    moved_high = _halved(objective, "clip_high")
    moved_low = _halved(objective, "clip_low")
    if _changes(objective, moved_low, above) or _changes(objective, moved_high, below):
        raise Fault(
            "clip_low and clip_high are swapped: clip_low changes tokens whose ratio is above 1, or "
            "clip_high those below 1. The ratio is clipped to [1 - clip_low, 1 + clip_high]."
        )
    if high and not _changes(objective, moved_high, above):
        raise Fault("clip_high changes nothing, although ratios exceed 1 + clip_high.")
    if low and not _changes(objective, moved_low, below):
        raise Fault("clip_low changes nothing, although ratios are below 1 - clip_low.")


def _bounds(objective: Objective) -> tuple[float, float]:
    options = {field.name for field in dataclasses.fields(cast("Any", objective)) if field.init}
    if not {"clip_low", "clip_high"} <= options:
        raise LeftOut("it has no options clip_low and clip_high.")
    options_of = cast("Any", objective)
    return float(options_of.clip_low), float(options_of.clip_high)


def _halved(objective: Objective, option: str) -> Objective:
    value = dataclasses.asdict(cast("Any", objective))[option]
    return dataclasses.replace(cast("Any", objective), **{option: value / 2})


def _drifted(update: Update, seed: int, least: float, most: float) -> Update:
    """The same with ratios of current to old between two bounds."""
    draw, mask = torch.Generator().manual_seed(seed), update.batch.mask
    ratio = least + (most - least) * torch.rand(mask.shape, generator=draw, dtype=torch.float64)
    old = (update.current.logp - ratio.log()).where(mask, 0.0)
    entropy = update.batch.old.entropy
    scores = TokenScores(logp=old, entropy=entropy)
    return replace(update, batch=replace(update.batch, old=scores))


def _changes(objective: Objective, other: Objective, update: Update) -> bool:
    def both(found: Outcome) -> torch.Tensor:
        return torch.cat([found.logp.flatten(), found.loss.flatten()])

    return differs(both(outcome(other, update)), both(outcome(objective, update)))
