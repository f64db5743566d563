"""A claim of a paper in miniature: its recipe, the arms that are compared, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent

TUNING = (0, 1)
"""Seeds on which learning rates and the like were chosen."""

TESTING = (100, 101, 102, 103, 104)
"""Seeds on which nothing was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run came to."""

    numbers: Mapping[str, float]
    """By what they are, in the words of the table."""
    curve: tuple[list[float], list[float]]
    """The points of the picture: along, and up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A recipe of two stages: all arms of a seed start from what the first makes, and vary the second."""

    name: str
    """Of the claim, and of its recipe."""
    arms: Mapping[str, tuple[str, ...]]
    """Overrides of the second stage, ``key=value``. The first arm is what the others are compared with."""
    measure: Callable[[Path], Measured]
    """From the folder of the second stage of a finished run."""
    verdict: str
    """The number that decides."""
    better: Literal["more", "less"]
    along: str
    """What the picture's points have along."""
    up: str
    """And up."""

    @property
    def recipe(self) -> Path:
        """The file of the recipe."""
        return HERE / f"{self.name}.toml"
