"""What is kept of a claim under docs/claims: its runs as JSON, and their picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrl.report.journal import number
from recipes.claims.claim import Claim
from recipes.claims.picture import picture
from recipes.claims.run import Result
from recipes.claims.verdict import table

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "claims"

PAGE = FOLDER.with_suffix(".md")
"""Where each table stands between two comments that name its claim."""


def write_results(claim: Claim, results: Sequence[Result]) -> None:
    """Keep the testing runs of a claim."""
    lines = ",\n".join(json.dumps(_finite(one), allow_nan=False) for one in results)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{claim.name}.json").write_text(f"[\n{lines}\n]\n", encoding="ascii")
    (FOLDER / f"{claim.name}.svg").write_text(picture(claim, results), encoding="ascii")


def read_results(claim: Claim) -> list[Result]:
    """The testing runs of a claim, as they were kept."""
    kept = json.loads((FOLDER / f"{claim.name}.json").read_text(encoding="ascii"))
    return [
        Result(**one | {"overrides": tuple(one["overrides"]), "numbers": _known(one["numbers"])})
        for one in kept
    ]


def _finite(result: Result) -> dict[str, Any]:
    """A result as JSON has it, where a number that does not exist is null."""
    numbers = {name: number(value) for name, value in result.numbers.items()}
    return asdict(result) | {"numbers": numbers}


def _known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in numbers.items()}


def on_page(claim: Claim, results: Sequence[Result], page: str) -> str:
    """The page with the table of a claim as its results have it.

    Raises:
        ValueError: the page has no place for it.
    """
    begin, end = f"<!-- {claim.name} -->\n", f"\n<!-- end of {claim.name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no place for claim '{claim.name}'; it needs {begin.strip()!r}")
    return before + begin + table(claim, results) + end + after
