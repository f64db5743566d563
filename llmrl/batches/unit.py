"""Units: rows that every split of a step keeps together."""

from __future__ import annotations

from collections.abc import Iterable


def units(rows: Iterable[int], pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Group each row with all those that ``pairs`` connect it to, directly or through others; in order."""
    unit_of = {row: {row} for row in rows}
    for one, other in pairs:
        joined = unit_of[one] | unit_of[other]
        unit_of |= dict.fromkeys(joined, joined)
    return sorted({min(unit): sorted(unit) for unit in unit_of.values()}.values())
