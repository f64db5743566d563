"""The verdict on each vector of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrl.errors import LlmrlError
from llmrl.vectors.claim import Answer, Kind
from llmrl.vectors.methods import method_of
from llmrl.vectors.vector import Unknown, Vector, read_folder

Outcome = Literal["ok", "FAIL", "not in llmrl", "not understood"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one vector."""

    name: str
    outcome: Outcome
    by: str = ""
    """Parts of llmrl that computed it."""
    loss: float | None = None
    """Largest difference of a loss; None if the vector has none."""
    gradient: float | None = None
    other: float | None = None
    """Largest difference of any other output."""
    note: str = ""
    """Failure, or the part of the vector that was not understood."""

    @property
    def good(self) -> bool:
        """Whether the vector does not contradict llmrl."""
        return self.outcome in ("ok", "not in llmrl")


def check_folder(folder: Path) -> Iterator[Verdict]:
    """The verdict on every vector of a folder, by name.

    Raises:
        DataError: there are no vectors, or a file is not a vector.
    """
    for vector in read_folder(folder):
        yield check_vector(vector)


def check_vector(vector: Vector) -> Verdict:
    """Compute one vector with the code that trains, and compare."""
    try:
        method = method_of(vector.name)
        if method is None:
            return Verdict(name=vector.name, outcome="not in llmrl")
        answer = method(vector)
    except Unknown as error:
        return Verdict(name=vector.name, outcome="not understood", note=f"{error}.")
    except LlmrlError as error:
        return Verdict(name=vector.name, outcome="not understood", note=str(error))
    except Exception as error:  # noqa: BLE001  a vector is foreign data, and one must not hide the others
        note = f"{type(error).__name__}: {error}"
        return Verdict(name=vector.name, outcome="not understood", note=note)
    return _judged(vector, answer)


def _judged(vector: Vector, answer: Answer) -> Verdict:
    wrong = [claim.quantity for claim in answer.claims if not claim.holds]
    if not answer.claims:
        return Verdict(name=vector.name, outcome="not understood", by=answer.by, note="no known output.")
    return Verdict(
        name=vector.name,
        outcome="FAIL" if wrong else "ok",
        by=answer.by,
        loss=_gap(answer, "loss"),
        gradient=_gap(answer, "gradient"),
        other=_gap(answer, "other"),
        note=f"differs: {', '.join(wrong)}" if wrong else "",
    )


def _gap(answer: Answer, kind: Kind) -> float | None:
    return max((claim.gap for claim in answer.claims if claim.kind == kind), default=None)
