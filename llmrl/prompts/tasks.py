"""Procedural tasks: arithmetic whose solution shows its working, in any number of distinct problems.

A task numbers its problems; ``task_rows`` puts the numbers in a seeded order. Two rows never share a prompt,
so rows that ``skip`` and ``rows`` keep apart are distinct problems by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.example import Example, check_template, source_name, wrap
from llmrl.prompts.seeds import derive_seed, shuffled
from llmrl.recipe.schema import Source
from llmrl.registry import Registry

MAX_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem and its solution."""

    prompt: str
    answer: str
    response: str
    """Working, then ``#`` and the answer."""
    rejected: str | None = None
    """Worse working than ``response``, or None."""
    then: tuple[str, ...] = ()
    """Continuation of the conversation after ``response``: a reply, a response, and so on."""


class Task(Protocol):
    """The interface of a registered task; its options are its fields."""

    @property
    def characters(self) -> str:
        """Every character that a prompt or response may contain."""
        ...

    @property
    def size(self) -> int:
        """Number of distinct problems."""
        ...

    def make(self, number: int) -> Problem:
        """Make problem ``number`` of ``range(size)``: pure, and different numbers have different prompts."""
        ...


task: Registry[Task] = Registry("task", named_by="task", protocol=Task)


def task_rows(made: Task, *, source: str, count: int, skip: int, seed: int) -> list[Example]:
    """Rows ``skip`` to ``skip + count - 1`` of the task's problems in the order of ``seed``.

    Raises:
        DataError: the task has fewer distinct problems.
    """
    if skip + count > made.size:
        raise DataError(
            f"{source}: rows {skip} to {skip + count - 1} are asked of a task "
            f"that has {made.size} distinct problems; lower rows or skip, or make its options wider."
        )
    order = derive_seed("task", seed)
    numbers = (shuffled(index, size=made.size, seed=order) for index in range(skip, skip + count))
    return [_example(made.make(number), source, skip + row) for row, number in enumerate(numbers)]


def read_task(source: Source, *, key: str, seed: int) -> list[Example]:
    """The rows that a source of the recipe takes from its task.

    Args:
        key: the source's key in the recipe, such as ``prompts.sources.0``.
        seed: the run's seed; the same for training and held-out rows, or they may meet.
    Raises:
        RecipeError: no such task or option, or no number of rows.
        DataError: the task has fewer distinct problems.
    """
    if source.task is None or source.rows is None:
        missing = "task" if source.task is None else "rows"
        raise RecipeError(f"{key}.{missing} is missing; a task needs its name and how many rows to make.")
    check_template(source, key=key)
    made = task.build(source.task, source.options, key=key)
    rows = task_rows(made, source=source_name(source), count=source.rows, skip=source.skip, seed=seed)
    return [wrap(row, source.template) for row in rows]


def _example(problem: Problem, source: str, row: int) -> Example:
    return Example(
        id=f"{source}/{row}",
        prompt=problem.prompt,
        answer=problem.answer,
        response=problem.response,
        source=source,
        rejected=problem.rejected,
        then=problem.then,
    )


def slip(share: float, number: int, place: int) -> int:
    """Error of one step of a problem: 1 or 2 in ``share`` of all cases, else 0."""
    chance, size = divmod(derive_seed("slip", number, place), 2)
    return size + 1 if chance % 1_000_000 < share * 1_000_000 else 0


def digit_sum(text: str, slips: Sequence[int]) -> str:
    """The working for the digits of ``text``, each step wrong by its number in ``slips``."""
    total, steps = int(text[0]), list[str]()
    for digit, wrong in zip(text[1:], slips, strict=True):
        result = total + int(digit) + wrong
        steps.append(f"{total}+{digit}={result}")
        total = result
    return f"{','.join(steps)}#{total}"


@task("digit_sum")
@dataclass(frozen=True, slots=True, kw_only=True)
class DigitSum:
    """Add the digits of a number: ``4827=`` is solved by ``4+8=12,12+2=14,14+7=21#21``."""

    digits_min: int = 4
    """Fewest digits of a number."""
    digits_max: int = 4
    """Most digits of a number; all numbers between are equally likely, so most have this many."""
    slips: float = 0.0
    """Share of the steps in a response whose result is wrong, for demonstrations of an imperfect teacher.

    Later steps build on it. The verifier's answer is always right.
    """

    def __post_init__(self) -> None:
        _check_digits(self.digits_min, self.digits_max)
        if not 0 <= self.slips <= 1:
            raise ValueError(f"slips must lie between 0 and 1, got {self.slips}")

    @property
    def characters(self) -> str:
        return "0123456789+=,#"

    @property
    def size(self) -> int:
        return _count(self.digits_min, self.digits_max)

    def make(self, number: int) -> Problem:
        text = str(_first(self.digits_min) + number)
        slips = [slip(self.slips, number, place) for place in range(len(text) - 1)]
        answer = str(sum(map(int, text)))
        return Problem(prompt=f"{text}=", answer=answer, response=digit_sum(text, slips))


@task("addition")
@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Add two numbers column by column: ``47+85=`` is solved by ``7+5=12,4+8+1=13#132``."""

    digits_min: int = 2
    """Fewest digits of each number."""
    digits_max: int = 2
    """Most digits of each number; a shorter one counts as having zeros in front."""

    def __post_init__(self) -> None:
        _check_digits(self.digits_min, self.digits_max)

    @property
    def characters(self) -> str:
        return "0123456789+=,#"

    @property
    def size(self) -> int:
        return _count(self.digits_min, self.digits_max) ** 2

    def make(self, number: int) -> Problem:
        left, right = divmod(number, _count(self.digits_min, self.digits_max))
        left, right = left + _first(self.digits_min), right + _first(self.digits_min)
        steps, carry = list[str](), 0
        for column in range(len(str(max(left, right)))):
            upper, lower = left // 10**column % 10, right // 10**column % 10
            total = upper + lower + carry
            steps.append(f"{upper}+{lower}{'+1' if carry else ''}={total}")
            carry = total // 10
        return Problem(
            prompt=f"{left}+{right}=", answer=str(left + right), response=f"{','.join(steps)}#{left + right}"
        )


@task("chain")
@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Work through a chain from left to right: ``7+5-3=`` is solved by ``7+5=12,12-3=9#9``."""

    terms: int = 3
    """Numbers in a chain."""
    largest: int = 9
    """Largest number; the smallest is 0."""
    operators: str = "+-"
    """Operators that occur, among ``+``, ``-`` and ``*``; none binds stronger than another."""
    modulo: int = 0
    """Modulus of each result, which keeps it in ``range(modulo)``; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        if not 2 <= self.terms <= MAX_DIGITS:
            raise ValueError(f"terms must lie between 2 and {MAX_DIGITS}")
        if self.largest < 1:
            raise ValueError("largest must be at least 1")
        if (
            not self.operators
            or not set(self.operators) <= set("+-*")
            or len(set(self.operators)) < len(self.operators)
        ):
            raise ValueError("operators must be one or more of +, - and *, each once")
        if self.modulo < 0 or self.modulo == 1:
            raise ValueError("modulo must be 0 or at least 2")

    @property
    def characters(self) -> str:
        return "0123456789+-*=,#"

    @property
    def size(self) -> int:
        return prod(self._choices)

    @property
    def _choices(self) -> list[int]:
        """Numbers of values at each place of a chain: a number, an operator, a number ..."""
        return [self.largest + 1, *[len(self.operators), self.largest + 1] * (self.terms - 1)]

    def make(self, number: int) -> Problem:
        places = list[int]()
        for choices in self._choices:
            number, place = divmod(number, choices)
            places.append(place)
        signs, terms = [self.operators[place] for place in places[1::2]], places[::2]
        total, steps = terms[0], list[str]()
        for sign, term in zip(signs, terms[1:], strict=True):
            result = self._result(total, sign, term)
            steps.append(f"{total}{sign}{term}={result}")
            total = result
        tail = "".join(f"{sign}{term}" for sign, term in zip(signs, terms[1:], strict=True))
        return Problem(prompt=f"{terms[0]}{tail}=", answer=str(total), response=f"{','.join(steps)}#{total}")

    def _result(self, total: int, sign: str, term: int) -> int:
        exact = {"+": total + term, "-": total - term, "*": total * term}[sign]
        return exact % self.modulo if self.modulo else exact


def _check_digits(fewest: int, most: int) -> None:
    if not 1 <= fewest <= most <= MAX_DIGITS:
        raise ValueError(
            f"digits_min and digits_max must satisfy 1 <= digits_min <= digits_max <= {MAX_DIGITS}"
        )


def _first(digits: int) -> int:
    """The smallest number with ``digits`` digits."""
    return 10 ** (digits - 1)


def _count(fewest: int, most: int) -> int:
    """Number of integers with ``fewest`` to ``most`` digits; 0 is not among them."""
    return 10**most - _first(fewest)
