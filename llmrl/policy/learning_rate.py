"""The learning rate as a pure function of the step, so that it needs no state and no checkpoint."""

from __future__ import annotations

import math

from llmrl.recipe.schema import Optimizer


def learning_rate(optimizer: Optimizer, step: int) -> float:
    """Learning rate of the update that follows ``step`` updates."""
    if step < optimizer.warmup_steps:
        return optimizer.lr * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.lr
    progress = (step - optimizer.warmup_steps) / max(1, optimizer.steps - optimizer.warmup_steps)
    left = 1 - progress if optimizer.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return optimizer.lr * (optimizer.final_lr_fraction + (1 - optimizer.final_lr_fraction) * left)
