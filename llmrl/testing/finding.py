"""What a check finds: that something holds, that it does not, or that it has nothing to ask here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmrl.objectives.contract import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    outcome: Literal["passed", "failed", "left out"]
    says: str
    """Sentence that names the fault, or why there was nothing to check."""


class Fault(Exception):
    """The objective breaks the contract; the message says where and how."""


class LeftOut(Exception):
    """The check says nothing about this objective; the message says why."""


Check = Callable[[Objective, int], None]
"""A check of an objective with a seed; returns if it holds, or raises Fault or LeftOut."""


def differs(ours: Tensor, expected: Tensor, *, rtol: float = 1e-9) -> bool:
    """Whether two tensors differ by more than rounding; differences are against the largest element."""
    gap = (ours - expected).abs().max() if ours.numel() else ours.new_zeros(())
    scale = expected.abs().max() if expected.numel() else 0.0
    return not bool(gap <= rtol * scale + 1e-12)


def worst(ours: Tensor, expected: Tensor) -> str:
    """The place where two [B, T] tensors differ most, with both values."""
    gap = (ours - expected).abs().nan_to_num(nan=torch.inf)
    place = int(gap.argmax())
    row, token = divmod(place, ours.shape[1])
    got, wanted = float(ours[row, token]), float(expected[row, token])
    return f"row {row}, token {token}: {got:.6g} instead of {wanted:.6g}"
