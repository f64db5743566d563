"""Results: the numbers that a sentence states, as opposed to the operands that they come from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.rewards.answers.numeral import Numeral, numerals

_UNIT = r"(?:[^\W\d_]+(?:[ ]?[./])?[ ]?){0,4}"
_SHUT = r"[\s)\]}$%,]*"
_OPEN = r"[\s($\[{]*"
_ARITHMETIC = re.compile(
    rf"{_SHUT}{_UNIT}[)\s]*(?:[-+*/\u2013]|x(?=[\s$])|times|plus|minus|divided by|multiplied by){_OPEN}"
)
_EQUATION = re.compile(
    rf"[\s)\]}}$%]*{_UNIT}(?:, which )?[)\s]*(?:=+>?|\u2248|->|\u2192|equals|is equal to)"
    rf"{_OPEN}(?:about |approximately |~)?"
)
_HEDGE = re.compile(
    rf"{_SHUT}(?:{_UNIT}\(?\b(?:or|and/or|versus|vs\.?)\b(?: (?:maybe|perhaps|possibly|about))?"
    rf"|(?:[^\W\d_]+ )?(?:to|through)\b|[-~\u2013]){_OPEN}",
    re.IGNORECASE,
)
_LIST = re.compile(rf"[\s)$]*(?:(?:[^\W\d_]+[ ]?){{0,2}}\band\b|,|;|&){_OPEN}", re.IGNORECASE)
_LIST_END = re.compile(r"[\s)}\]$]*(?:[.,;!?]?\s*\Z|,|and\b|;|[^\W\d_]+[.]?\s*\Z)", re.IGNORECASE)
_COPULA = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals|gives|get|makes)|[=:])"
    r"(?:\s+(?:about|approximately|only|just|exactly|therefore|thus|then|a total of|equal to|now))*"
    r"\s*[$(\"']*\Z",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"\b(?:after|over|in|for|since|because|if|when|with|from|of|by|per|at|during|each|every)\b",
    re.IGNORECASE,
)
_BOUND_BEFORE = re.compile(
    r"(?:[A-Za-z]\s?[*+^]|(?<![A-Za-z])[A-Za-z]\s?[-/]|\\[A-Za-z]+\s?\{?"
    r"|[*+^\u221a<>\u2264\u2265]|[^\s{]\s*\{)\s*\(?\Z"
)
_BOUND_AFTER = re.compile(
    r"[\s)]*(?:!!|!\s*\$|[*+^](?!\*)\s*[A-Za-z\\(]|-\s?(?:[A-Za-z]\b(?![a-z])|\\)|\\[A-Za-z])"
)
"""A variable, a root or a function beside a number, which is then no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a chain of numerals: 7 in "3 + 4 = 7"."""

    numeral: Numeral | None
    """Value of the result; None if the chain has none, as "3 + 4" or "x + 5"."""
    start: int
    """Index at which the chain begins."""
    end: int
    derived: bool
    """Whether it follows an equals sign."""


def results(text: str, *, words: bool = False) -> list[Result]:
    """The results of a plain sentence, in order."""
    found = numerals(text, words=words)
    chains: list[list[Numeral]] = []
    for numeral in found:
        if chains and _joins(text, chains[-1][-1], numeral):
            chains[-1].append(numeral)
        else:
            chains.append([numeral])
    return [_result(text, chain) for chain in chains]


def stated(text: str, *, words: bool = False) -> Result | None:
    """The one result that a sentence states as an answer; None if there is none, or it hedges.

    It is the first result ("18, which is 8 more than 10"), unless a phrase that may hold numbers of its own
    precedes that: then it is the one after "is", or else the last.
    """
    every = results(text, words=words)
    if not every:
        return None
    at = 0 if not _ASIDE.search(text, 0, every[0].start) else _principal(text, every)
    return None if _hedged(text, every, at) else every[at]


def concluding(text: str) -> Result | None:
    """The result that a sentence ends with, or that its last "is" introduces."""
    every = [result for result in results(text) if result.numeral is not None]
    if not every:
        return None
    at = _principal(text, every)
    return None if not every[at].derived and _hedged(text, every, at, lists=False) else every[at]


def _principal(text: str, every: Sequence[Result]) -> int:
    derived = [n for n, result in enumerate(every) if result.derived]
    if derived:
        return derived[-1]
    introduced = [n for n, result in enumerate(every) if _COPULA.search(text, 0, result.start)]
    return introduced[-1] if introduced else len(every) - 1


def _joins(text: str, first: Numeral, second: Numeral) -> bool:
    gap = text[first.end : second.start]
    if not gap.strip():
        return second.signed
    if gap == "(":
        return True  # 7(2) is a product
    return bool(_ARITHMETIC.fullmatch(gap) or _EQUATION.fullmatch(gap))


def _result(text: str, chain: Sequence[Numeral]) -> Result:
    sides: list[list[Numeral]] = [[chain[0]]]
    for before, numeral in itertools.pairwise(chain):
        if _EQUATION.fullmatch(text[before.end : numeral.start]):
            sides.append([numeral])
        else:
            sides[-1].append(numeral)
    single = [side[0] for side in sides if len(side) == 1 and _free(text, side[0])]
    start, end = chain[0].start, chain[-1].end
    numeral = single[-1] if single else None
    return Result(numeral=numeral, start=start, end=end, derived=numeral is not None and len(sides) > 1)


def _free(text: str, numeral: Numeral) -> bool:
    """Whether no variable, root or function is attached to it."""
    before = text[max(numeral.start - 12, 0) : numeral.start]
    return not _BOUND_BEFORE.search(before) and not _BOUND_AFTER.match(text, numeral.end)


def _hedged(text: str, every: Sequence[Result], at: int, *, lists: bool = True) -> bool:
    """Whether another answer stands beside this one: "5 or 6", "5, 6 and 7"."""
    pairs = [(every[n], every[n + 1]) for n in (at - 1, at) if 0 <= n < len(every) - 1]
    return any(_rivals(text, first, second, lists=lists) for first, second in pairs)


def _rivals(text: str, first: Result, second: Result, *, lists: bool) -> bool:
    if first.numeral is not None and second.numeral is not None and first.numeral.equals(second.numeral):
        return False
    gap = text[first.end : second.start]
    if _HEDGE.fullmatch(gap):
        return True
    return lists and bool(_LIST.fullmatch(gap)) and _LIST_END.match(text, second.end) is not None
