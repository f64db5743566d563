"""The columns of a row that a stage reads besides its prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The columns to read: one that is found only by its default name is not checked if it is not read."""

    answer: bool = True
    """Whether an invalid answer is refused; otherwise it counts as none."""
    response: bool = True
    """Whether the dataset's responses are trained on; otherwise they are ignored."""


EVERYTHING = Reads()
