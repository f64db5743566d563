r"""Formulas: what a LaTeX expression comes to, in sixty digits, with every letter at a chosen value.

Two formulas that agree there are equal, and two that differ are not: that takes microseconds, where algebra
takes milliseconds. Whatever is not arithmetic (functions, text, equations) is left to algebra.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

_CONTEXT = decimal.Context(prec=60, Emax=10**5, Emin=-(10**5))
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_TIGHT = Decimal("1e-40")
_DECIMALS = Decimal("5e-7")
"""Largest distance of a number with a decimal point from what it rounds: six decimals ..."""
_RELATIVE = Decimal("1.000001e-6")
"""... and six digits."""
_MOST_POWER = 2000

_TOKEN = re.compile(
    r"""
    \s*(?: (?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)
    | (?P<name>\\(?:frac|sqrt|pi|cdot|times|div)(?![A-Za-z]))
    | (?P<letter>\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|infty)(?![A-Za-z])|[A-Za-z])
    | (?P<sign>\\[{}]|[-+*/^(){}\[\],]) )
    """,
    re.VERBOSE,
)
_SILENT = re.compile(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!,;: ]|\^\s*\{?\s*\\circ\s*\}?|[$~]|\{,\}"
)
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{3}")
"""Three letters side by side are a word more often than a product."""
_NUMERIC_FRACTION = re.compile(r"\\frac\{?[0-9]+\}?\{?[0-9]+\}?")
_IMAGINARY = frozenset("ei")
"""Letters that are numbers, with which formulas may be equal even if they differ elsewhere."""
_NAMES = frozenset({"\\frac", "\\sqrt", "\\pi", "\\cdot", "\\times", "\\div"})
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One value, or several in brackets or between commas."""

    opening: str
    closing: str
    values: tuple[Decimal, ...]
    rounded: bool
    """Whether it has a decimal point."""
    certain: bool
    """Whether no letter is a number, so that formulas of different value are different."""
    rooted: bool
    """Whether it has a root of letters, so that equality for positive letters need not be equality."""


class _NotArithmetic(Exception):
    """A text that is not arithmetic, which is left to algebra."""


@lru_cache(maxsize=8192)
def formula(text: str) -> Formula | None:
    """Parse a text as a formula; None if it is not arithmetic alone."""
    plain = re.sub(r"\\[dtc]frac", r"\\frac", _SILENT.sub("", text)).rstrip(".")
    tokens = _tokens(plain)
    if not tokens or _WORD.search(plain):
        return None
    with decimal.localcontext(_CONTEXT):
        try:
            opening, closing, values = _Reader(tokens).everything()
        except (_NotArithmetic, decimal.DecimalException, RecursionError):
            return None
    certain = _IMAGINARY.isdisjoint(tokens)
    rooted = any(token[-1].isalpha() and token not in _NAMES for token in tokens) and "\\sqrt" in tokens
    return Formula(
        opening=opening,
        closing=closing,
        values=tuple(values),
        rounded="." in plain,
        certain=certain,
        rooted=rooted,
    )


def alike(gold: Formula, claim: Formula) -> bool | None:
    """Whether two formulas are equal; None if only algebra can tell."""
    ordered = len(gold.values) == len(claim.values) and all(
        _near(a, b, rounded=gold.rounded or claim.rounded)
        for a, b in zip(gold.values, claim.values, strict=True)
    )
    same_brackets = (gold.opening, gold.closing) == (claim.opening, claim.closing)
    if ordered and same_brackets:
        return None if gold.rooted or claim.rooted else True
    if not gold.certain or not claim.certain:
        return None
    return _differ(gold, claim, same_brackets=same_brackets)


def _differ(gold: Formula, claim: Formula, *, same_brackets: bool) -> bool | None:
    rounded = gold.rounded or claim.rounded
    if len(gold.values) != len(claim.values):
        return False if 1 in (len(gold.values), len(claim.values)) else None
    pairs = zip(sorted(gold.values), sorted(claim.values), strict=True)
    if not all(_near(a, b, rounded=rounded) for a, b in pairs):
        return False
    if not same_brackets:
        return None
    return gold.opening in ("", "\\{")


def _near(first: Decimal, second: Decimal, *, rounded: bool) -> bool:
    with decimal.localcontext(_CONTEXT):
        gap, size = abs(first - second), max(abs(first), abs(second))
        return gap <= min(_DECIMALS, _RELATIVE * size) if rounded else gap <= _TIGHT * size


def _tokens(text: str) -> list[str]:
    """The tokens of a text; empty if it contains anything else."""
    tokens: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        found = _TOKEN.match(text, at)
        if found is None:
            return []
        tokens.append(found.group().strip())
        at = found.end()
    return tokens


def _letter_value(letter: str) -> Decimal:
    """The value of a letter: its own, between 1 and 3, with no pattern that a formula could meet."""
    seed = int.from_bytes(letter.encode(), "big") * 2654435761 % 2**32
    return 1 + 2 * (Decimal(seed) + Decimal(2).sqrt()) / 2**32


class _Reader:
    """A recursive descent over tokens; every rule returns the value that it has read."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at = tokens, 0

    def everything(self) -> tuple[str, str, list[Decimal]]:
        try:
            return "", "", self._all_of(self._list)
        except _NotArithmetic:
            opening, closing = self._tokens[0], self._tokens[-1]
            if opening not in _CLOSING or closing not in _CLOSING.values():
                raise
            self._tokens, self._at = self._tokens[1:-1], 0
            return opening, closing, self._all_of(self._list)

    def _all_of(self, rule: Callable[[], list[Decimal]]) -> list[Decimal]:
        values = rule()
        if self._next:
            raise _NotArithmetic
        return values

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *expected: str) -> str:
        token = self._next
        if not token or (expected and token not in expected):
            raise _NotArithmetic
        self._at += 1
        return token

    def _list(self) -> list[Decimal]:
        values = [self._sum()]
        while self._next == ",":
            self._take()
            values.append(self._sum())
        return values

    def _sum(self) -> Decimal:
        value = self._product()
        while self._next in ("+", "-"):
            value = value + self._product() if self._take() == "+" else value - self._product()
        return value

    def _product(self) -> Decimal:
        value = self._signed()
        while self._next and self._next not in ("+", "-", ",", ")", "}", "]", "\\}"):
            if self._next in ("*", "\\cdot", "\\times"):
                self._take()
                value *= self._signed()
            elif self._next in ("/", "\\div"):
                self._take()
                value /= self._signed()
            else:
                value = self._beside(value)
        return value

    def _beside(self, value: Decimal) -> Decimal:
        """Combine two factors without a sign between them; a whole number beside a fraction is mixed."""
        start = self._at
        whole = self._tokens[start - 1]
        if self._next[0].isdecimal() or self._next[0] == ".":
            raise _NotArithmetic  # "2 3" is not a product
        factor = self._power()
        fraction = "".join(self._tokens[start : self._at])
        if not whole.isdecimal() or not _NUMERIC_FRACTION.fullmatch(fraction):
            return value * factor
        if abs(value) != int(whole):
            raise _NotArithmetic  # 3 * 2\frac{1}{2}: clear to people, not worth a rule
        return value + factor if value >= 0 else value - factor

    def _signed(self) -> Decimal:
        if self._next in ("+", "-"):
            return self._signed() if self._take() == "+" else -self._signed()
        return self._power()

    def _power(self) -> Decimal:
        base = self._atom()
        if self._next != "^":
            return base
        self._take()
        exponent = self._argument()
        if abs(exponent) > _MOST_POWER or (base < 0 and exponent != int(exponent)):
            raise _NotArithmetic
        return base ** (int(exponent) if exponent == int(exponent) else exponent)

    def _argument(self) -> Decimal:
        """Read a group, or one digit or letter: the 3 of x^34."""
        if self._next == "{":
            return self._group("{", "}")
        if self._next == "-":
            self._take()
            return -self._argument()
        if self._next.isdecimal() and len(self._next) > 1:
            digits = self._next
            self._tokens[self._at : self._at + 1] = [digits[0], digits[1:]]
        return self._atom()

    def _group(self, opening: str, closing: str) -> Decimal:
        self._take(opening)
        value = self._sum()
        self._take(closing)
        return value

    def _atom(self) -> Decimal:
        token = self._next
        if token in ("(", "{", "["):
            return self._group(token, {"(": ")", "{": "}", "[": "]"}[token])
        self._take()
        if token[0].isdecimal() or token[0] == ".":
            return Decimal(token.replace(",", ""))
        if token == "\\pi":
            return _PI
        if token == "\\frac":
            top = self._argument()
            return top / self._argument()
        if token == "\\sqrt":
            return self._root()
        if token.isalpha() or token[1:].isalpha():
            return _letter_value(token)
        raise _NotArithmetic

    def _root(self) -> Decimal:
        degree = self._group("[", "]") if self._next == "[" else Decimal(2)
        radicand = self._argument()
        if radicand < 0 or degree == 0:
            raise _NotArithmetic
        return radicand.sqrt() if degree == 2 else radicand ** (1 / degree)
