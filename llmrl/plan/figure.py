"""A derived number that remembers the formula and the numbers it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["bytes", "s", "tokens", "tokens/s", "responses", "steps", "dollars"]

SCALES: Mapping[Unit, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes")),
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "us")),
}
"""Divisor and name, the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number, and why it is that number."""

    value: float
    unit: Unit
    formula: str
    """The formula, in the letters of ``inputs``; docs/plan.md says what the letters mean."""
    inputs: Mapping[str, float]

    def __str__(self) -> str:
        return amount(self.value, self.unit)

    @property
    def because(self) -> str:
        """The formula and the numbers that it was filled with."""
        numbers = ", ".join(f"{name} = {plain(value)}" for name, value in self.inputs.items())
        return f"{self.formula}; {numbers}" if numbers else self.formula


def amount(value: float, unit: Unit) -> str:
    """A value in the size of unit that a person would choose."""
    for divisor, name in SCALES.get(unit, ()):
        if abs(value) >= divisor:
            return f"{value / divisor:,.{_decimals(value / divisor)}f} {name}"
    if unit in SCALES:
        return f"{value:,.0f} {SCALES[unit][-1][1] if unit == 'bytes' else unit}"
    return f"{value:,.{_decimals(value) if value < 10 else 0}f} {unit}"


def plain(value: float) -> str:
    """A number of any size in few characters."""
    if abs(value) < 1e7 and value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
