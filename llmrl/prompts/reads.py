"""What a stage reads of a row besides its prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Columns that are found by their names alone are no fault of the row where nobody reads them."""

    answer: bool = True
    """Whether a value that is no answer is refused; it counts as none otherwise."""
    response: bool = True
    """Whether the responses of the dataset are trained on; they are not looked at otherwise."""


EVERYTHING = Reads()
