"""From unreduced losses and metrics to the step's own means: the only place that divides.

Every share has the denominators of the whole step, so the shares of all micro-batches on all ranks add
up to the step's mean, and no split of the work can change a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from llmrl.batches.batch import Totals
from llmrl.objectives.contract import MeanOver


def reduce_loss(value: Tensor, mask: Tensor, totals: Totals, mean_over: MeanOver) -> Tensor:
    """This micro-batch's share of the update's mean loss.

    Args:
        value: [B, T] per token, [B] per response, or [P] per pair with ``mean_over = "pairs"``; ignored
            outside the mask, and where a response has no trained token.
        mask: [B, T] bool.
        totals: sizes of the whole update over all ranks.
        mean_over: ``tokens``: each trained token weighs the same; ``responses``: each response does,
            after a mean over its own tokens; ``budget`` or a number: each response does, after a sum over
            its tokens that is divided by ``totals.budget`` or the number; ``pairs``: each pair does.

    Raises:
        ValueError: the loss has another shape than its unit requires; broadcasting would misweigh it.
    """
    if mean_over == "pairs":
        if value.ndim != 1:
            raise ValueError(f"a loss over pairs must be [P], got {list(value.shape)}.")
        return value.sum() / max(1, totals.pairs)
    rows = mask.any(-1)
    if mean_over != "tokens" and value.shape == rows.shape:
        return value.where(rows, 0.0).sum() / max(1, totals.responses)
    if value.shape != mask.shape:
        raise ValueError(
            f"a loss over {mean_over} must be [B, T] = {list(mask.shape)}, got {list(value.shape)}."
        )
    kept = value.where(mask, 0.0)
    if mean_over == "tokens":
        return kept.sum() / max(1, totals.tokens)
    return (kept.sum(-1) / _divisor(mask, totals, mean_over)).sum() / max(1, totals.responses)


def _divisor(mask: Tensor, totals: Totals, mean_over: MeanOver) -> Tensor | int:
    if mean_over == "responses":
        return mask.sum(-1).clamp(min=1)
    return mean_over if isinstance(mean_over, int) else totals.budget


class Ranks(Protocol):
    """Sums and maxima over the ranks of a step."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, on every rank."""
        ...

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over ranks, on every rank."""
        ...


class Tally:
    """The metrics of a step as numerators, denominators and maxima, which all micro-batches and ranks add to.

    Kept as tensors where they were made, so that counting never waits for a GPU. All ranks count the
    same names, as they run the same objective the same number of times.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._peaks: dict[str, Tensor] = {}

    def add(self, name: str, share: Tensor) -> None:
        """Add a share of a number that is the sum of all shares, such as the loss."""
        _accumulate(self._sums, name, share.detach())

    def mean(self, name: str, value: Tensor, where: Tensor) -> None:
        """Add values to average over the whole step; only those under ``where`` count, and are read.

        Raises:
            ValueError: the shapes differ.
        """
        _check_shapes(name, value, where)
        _accumulate(self._sums, name, value.detach().double().where(where, 0.0).sum())
        _accumulate(self._weights, name, where.sum())

    def largest(self, name: str, value: Tensor, where: Tensor) -> None:
        """Add values whose maximum over the whole step counts; only those under ``where`` are read.

        Raises:
            ValueError: the shapes differ.
        """
        _check_shapes(name, value, where)
        seen = value.detach().double()[where]
        peak = seen.max() if seen.numel() else value.new_tensor(-torch.inf).double()
        self._peaks[name] = torch.maximum(self._peaks[name], peak) if name in self._peaks else peak

    def over(self, ranks: Ranks) -> dict[str, float]:
        """Every metric of the step, the same on all ranks; a mean over nothing is left out."""
        sums = _reduced(self._sums, ranks.total)
        weights = _reduced(self._weights, ranks.total)
        peaks = _reduced(self._peaks, ranks.largest)
        means = {
            name: value / weights.get(name, 1.0) for name, value in sums.items() if weights.get(name, 1.0)
        }
        return means | {name: peak for name, peak in peaks.items() if peak != -torch.inf}


def _check_shapes(name: str, value: Tensor, where: Tensor) -> None:
    if value.shape != where.shape:
        raise ValueError(f"metric {name}: value {list(value.shape)} and where {list(where.shape)} differ.")


def _accumulate(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value.double() if name in totals else value.double()


def _reduced(values: dict[str, Tensor], over: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Reduce all names in one collective, in an order that is the same on every rank."""
    names = sorted(values)
    if not names:
        return {}
    reduced = over(torch.stack([values[name] for name in names])).cpu()
    return {name: float(value) for name, value in zip(names, reduced, strict=True)}
