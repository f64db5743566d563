"""A calculator: sums, differences, products and quotients of decimal numbers, exact until they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context
from fractions import Fraction

from llmrl.errors import shown
from llmrl.recipe.schema import Positive
from llmrl.rollouts.tool import Tool, ToolError, tool

LONGEST = 200
"""Most characters of an expression."""
DEEPEST = 20
"""Deepest nesting of parentheses."""
LARGEST = 10**50
"""Largest numerator or denominator of any intermediate result."""

_PIECE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|[-+*/()])", re.ASCII)


@tool("calculator")
@dataclass(frozen=True, slots=True, kw_only=True)
class Calculator(Tool):
    """Answers ``12*(7-2.5)`` with ``54``; knows ``+ - * /`` and parentheses. Nothing is ever evaluated as
    Python."""

    digits: Positive = 12
    """Significant digits of a result that is no integer."""

    async def answer(self, question: str) -> str:
        value = _Expression(question).value()
        if value.denominator == 1:
            return f"{value.numerator}"
        context = Context(prec=self.digits)
        return f"{context.divide(value.numerator, value.denominator).normalize(context):f}"


class _Expression:
    """A parser that reads an expression once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._rest = _pieces(text.strip().removesuffix("="))[::-1]
        self._depth = 0

    def value(self) -> Fraction:
        value = self._sum()
        if self._rest:
            raise self._refusal()
        return value

    def _sum(self) -> Fraction:
        value = self._product()
        while (sign := self._taken("+-")) is not None:
            value = _bounded(value + self._product() if sign == "+" else value - self._product())
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while (sign := self._taken("*/")) is not None:
            factor = self._factor()
            if sign == "/" and not factor:
                raise ToolError("division by zero")
            value = _bounded(value * factor if sign == "*" else value / factor)
        return value

    def _factor(self) -> Fraction:
        sign = 1
        while (found := self._taken("+-")) is not None:
            sign = -sign if found == "-" else sign
        if self._taken("(") is not None:
            return sign * self._inner()
        if not self._rest or not self._rest[-1][0].isdigit():
            raise self._refusal()
        return sign * _bounded(Fraction(self._rest.pop()))

    def _inner(self) -> Fraction:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ToolError(f"more than {DEEPEST} parentheses within each other")
        value = self._sum()
        if self._taken(")") is None:
            raise self._refusal()
        self._depth -= 1
        return value

    def _taken(self, signs: str) -> str | None:
        return self._rest.pop() if self._rest and self._rest[-1] in signs else None

    def _refusal(self) -> ToolError:
        return ToolError(f"{shown(self._text)} is not arithmetic")


def _pieces(text: str) -> list[str]:
    """Split an expression into numbers, signs and parentheses."""
    if len(text) > LONGEST:
        raise ToolError(f"an expression of more than {LONGEST} characters")
    pieces, at = list[str](), 0
    while at < len(text.rstrip()):
        found = _PIECE.match(text, at)
        if found is None:
            raise ToolError(f"{shown(text)} is not arithmetic")
        pieces.append(found[1])
        at = found.end()
    return pieces


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) > LARGEST:
        raise ToolError("the numbers get too large")
    return value
