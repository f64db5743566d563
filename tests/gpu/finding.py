"""What a proof finds, how large it is made, and what all proofs measure with."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.plan.hardware import Device, read_devices

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
    """Most that is allowed, or least; None only reports."""
    at_least: bool = False
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within its limit; NaN is not."""
        if self.limit is None:
            return True
        return self.got >= self.limit if self.at_least else self.got <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g}"
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
    """Seconds until the device is done."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def median_of(work: Callable[[], object], *, rounds: int = 7) -> float:
    """Seconds, of so many times after two."""
    return statistics.median([timed(work) for _ in range(2 + rounds)][2:])


def report(rows: Iterable[Row], *, where: str) -> int:
    """Print a table row by row, as findings take minutes; 1 if one misses its limit."""
    sys.stdout.write(f"torch {torch.__version__}, {where}\n\n| what | found | limit | |\n|---|---|---|---|\n")
    held = True
    for row in rows:
        held &= row.holds
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
    return int(not held)


def place(device: torch.device) -> str:
    """What a table is headed with."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, tiny sizes"


def peaks(device: torch.device) -> Device:
    """The data sheet of this GPU."""
    name = torch.cuda.get_device_name(device)
    known = [one for one in read_devices().values() if one.name in name]
    if not known:
        raise SystemExit(f"no peaks of '{name}' in llmrl/plan/hardware.toml; add them there.")
    return max(known, key=lambda one: len(one.name))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
