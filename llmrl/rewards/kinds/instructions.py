"""``instructions``: does the response keep the constraints that its row or the recipe sets on its form?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from llmrl.errors import shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.constraint import Constraint
from llmrl.rewards.kinds.json_schema import read_json
from llmrl.rewards.reward import Reward, Score, gold_of, reward

_FORMS = "an object with instruction_id_list and kwargs, or a list of objects with name"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """IFEval's own form, as far as it matters here."""

    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


_ROWS: TypeAdapter[_Published | list[dict[str, Any]]] = TypeAdapter(_Published | list[dict[str, Any]])


@reward("instructions")
@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """The share of a row's constraints that the response keeps, by the names of IFEval.

    The answer of the row lists them in JSON, as IFEval's ``{"instruction_id_list": [...], "kwargs": [...]}``
    or as ``[{"name": "punctuation:no_comma"}, ...]`` with the arguments beside the name.
    """

    every: bool = False
    """Whether to score 1 if all are kept, else 0, instead of the share."""

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> Score:
        return _score(row_constraints(gold_of(sample)), sample.final_text, every=self.every)

    def bare(self) -> Reward:
        """A check that a row's constraints can be read, as its gold answer is no response."""
        return _Readable()


@reward("constraints")
@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """The share of constraints, the same for every row, that the response keeps, by the names of IFEval."""

    require: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Names and arguments: ``{ "length_constraints:number_words" = { num_words = 50 } }``."""
    every: bool = False
    """Whether to score 1 if all are kept, else 0, instead of the share."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.require:
            raise ValueError("require must name at least one constraint")
        self._all()

    def __call__(self, sample: Sample) -> Score:
        return _score(self._all(), sample.final_text, every=self.every)

    def _all(self) -> list[Constraint]:
        return [Constraint.of(name, arguments) for name, arguments in self.require.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readable:
    """Scores 1 if the row's constraints can be read; otherwise it raises."""

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> float:
        return float(bool(row_constraints(gold_of(sample))))


def row_constraints(answer: str) -> list[Constraint]:
    """The constraints of a row.

    Raises:
        ValueError: it is not JSON of the two forms, is empty, or names a constraint that does not exist.
    """
    try:
        rows = _ROWS.validate_python(read_json(answer))
    except ValidationError:
        rows = None
    pairs = _pairs(rows)
    if not pairs:
        raise ValueError(f"the answer must be {_FORMS}, got {shown(answer)}")
    return [Constraint.of(name, arguments) for name, arguments in pairs]


def _pairs(rows: _Published | list[dict[str, Any]] | None) -> list[tuple[str, dict[str, Any]]]:
    """Pair names with their arguments; empty if the numbers of both differ."""
    if rows is None:
        return []
    if isinstance(rows, list):
        return [(str(row.get("name")), {key: row[key] for key in row if key != "name"}) for row in rows]
    names, arguments = rows.instruction_id_list, rows.kwargs
    return list(zip(names, arguments, strict=True)) if len(names) == len(arguments) else []


def _score(constraints: Sequence[Constraint], response: str, *, every: bool) -> Score:
    broken = [constraint.name for constraint in constraints if not constraint.holds(response)]
    share = 1 - len(broken) / len(constraints)
    return Score(
        float(not broken) if every else share, f"not kept: {', '.join(broken)}" if broken else "all kept"
    )
