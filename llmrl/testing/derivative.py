"""Checks of the gradient against finite differences, with all that the objective detaches held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llmrl.batches.batch import TokenScores
from llmrl.objectives.contract import Objective
from llmrl.testing.finding import Fault, worst
from llmrl.testing.gradient import outcome, share
from llmrl.testing.tiny import tiny_update
from llmrl.testing.update import Update

STEP = 1e-6

TENSOR: Any = torch.Tensor  # whose stubs hide that `data` is a property

STOPS: Sequence[Callable[..., Any]] = (
    TENSOR.detach,
    TENSOR.data.__get__,
    TENSOR.item,
    TENSOR.tolist,
    TENSOR.__float__,
)
"""Functions through which a value leaves the graph."""


def agrees_with_finite_differences(objective: Objective, seed: int) -> None:
    """The gradient is the slope of the loss.

    A stop-gradient makes a quantity a constant on purpose, as in CISPO or GSPO, so whatever the objective
    detaches keeps the value that it has at the middle point.
    """
    update = tiny_update(objective, seed)
    found = outcome(objective, update)
    _compare(objective, update, "logp", found.logp)
    if found.entropy is not None:
        _compare(objective, update, "entropy", found.entropy)


def learns(objective: Objective, seed: int) -> None:
    """Some token has a gradient."""
    found = outcome(objective, tiny_update(objective, seed))
    gradients = [found.logp] if found.entropy is None else [found.logp, found.entropy]
    if not any((gradient != 0).any() for gradient in gradients):
        raise Fault(
            "no token has a gradient, so nothing is learned: the loss does not depend on current.logp, "
            "or it was detached."
        )


class Held(TorchFunctionMode):
    """Records every value that leaves the graph, and in later passes returns the recorded ones."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._next: int | None = None

    def rewind(self) -> Held:
        """From now on, replay from the first recorded value."""
        self._next = 0
        return self

    def __torch_function__(
        self, func: Callable[..., Any], _types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.is_grad_enabled() and func not in STOPS:
            return result
        if self._next is None:
            self._kept.append(result.clone() if isinstance(result, Tensor) else result)
            return result
        self._next += 1
        return self._kept[self._next - 1] if self._next <= len(self._kept) else result


def _compare(objective: Objective, update: Update, column: str, gradient: Tensor) -> None:
    slope = _slopes(objective, update, column)
    loss = abs(float(outcome(objective, update).loss))
    tolerance = 1e-6 * float(gradient.abs().max()) + 1e-8 * (1 + loss)
    if not bool((slope - gradient).abs().max() <= tolerance):
        raise Fault(
            f"dL/d{column} is not the slope of the loss: {worst(gradient, slope)} by finite differences, "
            f"with what is detached held fixed."
        )


def _slopes(objective: Objective, update: Update, column: str) -> Tensor:
    held, slopes = Held(), torch.zeros_like(update.current.logp)
    _loss(objective, update, held)
    for place in update.batch.mask.nonzero():
        above, below = (
            _loss(objective, _moved(update, column, place, by), held.rewind()) for by in (STEP, -STEP)
        )
        slopes[tuple(place)] = (above - below) / (2 * STEP)
    return slopes


def _loss(objective: Objective, update: Update, held: Held) -> float:
    with held:
        loss = objective(update.current, update.batch)
    return float(share(objective, loss, update))


def _moved(update: Update, column: str, place: Tensor, by: float) -> Update:
    def move(scores: Tensor) -> Tensor:
        return scores.index_put(tuple(place), scores.new_tensor(by), accumulate=True)

    logp, entropy = update.current.logp, update.current.entropy
    moved = TokenScores(
        logp=move(logp) if column == "logp" else logp,
        entropy=move(entropy) if column == "entropy" and entropy is not None else entropy,
    )
    return replace(update, current=moved)
