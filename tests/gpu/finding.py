"""What a proof finds, how large it is made, and what all proofs measure with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Norm of a difference over the norm of the right value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the proofs are."""

    head: tuple[int, int, int]
    """Tokens, vocabulary, width."""
    layers: int
    sequences: tuple[int, ...]
    """Tokens of each sequence that the model is given, packed."""
    hidden: int


FULL = Sizes(head=(16384, 151936, 896), layers=24, hidden=896, sequences=(4096, 2048, 1500, 548, *[1024] * 8))
TINY = Sizes(head=(64, 500, 32), layers=2, hidden=112, sequences=(9, 3, 1, 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding."""

    what: str
    got: float
    limit: float | None = None
    """Most that is allowed; None only reports."""
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within its limit; NaN is not."""
        return self.limit is None or self.got <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"<= {self.limit:g}"
        verdict = "" if self.limit is None else "ok" if self.holds else "FAILED"
        return f"| {self.what} | {self.got:.4g} {self.unit}".rstrip() + f" | {limit} | {verdict} |"


def off(ours: Tensor, right: Tensor) -> float:
    """Norm of the difference over the norm of the right value."""
    ours, right = ours.detach().float(), right.detach().float()
    return float((ours - right).norm() / right.norm())


def in_float32(tensor: Tensor) -> Tensor:
    return tensor.detach().float().requires_grad_()


def grad_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None  # promised by backward
    return tensor.grad


def timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start
