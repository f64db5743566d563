"""``math``: is the response's final expression mathematically equal to the gold one?"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

from llmrl.errors import shown
from llmrl.rewards.answers.answer import Claim, claims, gold_part, sentences
from llmrl.rewards.answers.boxed import last_boxed
from llmrl.rewards.answers.equation import is_statement
from llmrl.rewards.answers.expression import hostile, squeezed
from llmrl.rewards.answers.numeral import Numeral
from llmrl.rewards.answers.shape import settled
from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.number import boxed_numeral, boxed_symbol, claimed_numeral, decisive
from llmrl.rewards.reward import Reward, Score, gold_of, reward

TAIL = 2000
"""Characters at the end of a response in which unannounced mathematics is looked for."""
_DECIMALS = Fraction(5, 10**7)
_RELATIVE = Fraction(1, 10**6)
_ALGEBRA = re.compile(r"[\\^_$]")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile("[A-Za-z]{3,}")
"""A word, which algebra would take for a product, and then east is seat."""
_SPOKEN = re.compile(r"(?<![\\A-Za-z])(?=[A-Z]*[a-z])[A-Za-z]{2,}")
"""A word, as opposed to a product of capitals or a command of LaTeX."""
_BEGINNING = re.compile(r"\W*[A-Z]")
_BETWEEN = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*", re.IGNORECASE)
_BASED = re.compile(r"\(?([0-9A-F]+)\)?_\{?([0-9]+)\}?")
"""Digits and their base, which math-verify takes for decoration."""
_MARKED = re.compile(r"\\(?:text[a-z]*|math(?:rm|sf|bf|it)|mbox)\s?\{[^{}]*\}|\$")
_BESIDE = re.compile(r"[0-9}](?:(?![eE][-+]?[0-9])([A-Za-z]+)|[ ](?![mgshL])[A-Za-z]\Z)")
_UNITS = frozenset({
    "cm", "mm", "km", "dm", "kg", "mg", "ft", "in", "lb", "oz", "mph", "hr", "hrs", "min", "sec", "ml", "mL",
    "st", "nd", "rd", "th", "am", "pm",
})  # fmt: skip
"""Units that may follow the number of a gold answer directly; other letters there are factors, as in 6pq."""
_ASSIGNED = re.compile(r"\A\s*[A-Za-z](?:\([A-Za-z]\))?\s*=(?!=)\s*")


@reward("math")
@dataclass(frozen=True, slots=True, kw_only=True)
class Math:
    r"""1 if the last ``\boxed{}``, announced answer or mathematics of the response equals the gold answer.

    Numbers are read as ``number`` reads them, and may be rounded to six decimals. Other expressions are equal
    if they come to the same at every value of their letters; what has no value is left to math-verify:
    functions, sets, equations. A gold answer that it cannot read, such as 2,3,\dots,7, is compared as text.
    It can take for ever on a hostile expression; the worst are refused, and the deadline of scoring ends the
    others, so its own alarms are off.
    """

    whole: bool = False
    """Whether the response must be the answer alone: no box, no dollar signs, no words around it."""

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> Score:
        gold = _Gold.read(gold_of(sample))
        if self.whole:
            return gold.judge(Claim(text=_bare(sample.final_text), form="box"))
        for claim in claims(sample.final_text, finished=sample.finished):
            if gold.settled_by(claim):
                return gold.judge(claim)
        return Score(0.0, "no answer")

    def bare(self) -> Reward:
        """The reward for gold answers, which come without a box."""
        return replace(self, whole=True)

    def warm_up(self) -> None:
        """Import SymPy, which takes a third of a second."""
        _equal(r"\frac{1}{2}", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gold:
    """The gold answer, and its value if it is a number."""

    text: str
    numeral: Numeral | None
    symbol: str
    """Symbol that equals the number: x of x = 5."""

    @classmethod
    def read(cls, answer: str) -> _Gold:
        if gold_part(answer) == answer and _is_told(answer):
            raise ValueError(
                f"the gold answer {shown(answer)} is a text without a box; map the column with the answer, "
                f"or write it after '####'"
            )
        text = _bare(answer)
        return cls(
            text=text, numeral=None if _is_term(text) else boxed_numeral(text), symbol=boxed_symbol(text)
        )

    def settled_by(self, claim: Claim) -> bool:
        """Whether a claim is the answer; an announcement of nothing leaves it to an earlier one."""
        if claim.form != "announced":
            return True
        return decisive(claim) if self.numeral is not None else bool(_expression_in(claim))

    def judge(self, claim: Claim) -> Score:
        if claim.denied:
            return Score(0.0, "says that there is no answer")
        if self.numeral is not None:
            if self._is_of_another(claim):
                return Score(0.0, f"says what another symbol than {shown(self.symbol)} is")
            number = claimed_numeral(claim)
            if number is not None and number.value is not None:
                return Score(float(_as_good(self.numeral, number)), f"read {shown(str(number.value))}")
            if claim.form != "box" and not _ALGEBRA.search(claim.text):
                return Score(0.0, "no number")
        if claim.cut:
            return Score(0.0, "cut off")
        return self._compare(claim)

    def _is_of_another(self, claim: Claim) -> bool:
        """Whether the box names another symbol than the gold answer; a box without one does not."""
        named = boxed_symbol(claim.text) if self.symbol and claim.form == "box" else ""
        return named not in ("", self.symbol)

    def _compare(self, claim: Claim) -> Score:
        """Compare by value, or else by algebra; a gold answer that algebra cannot read, by its text."""
        text = claim.text if claim.form == "box" else _expression_in(claim)
        if ("=" in self.text) != ("=" in text) and (is_statement(self.text) or is_statement(text)):
            return Score(0.0, f"read {shown(text)}")  # math-verify would compare the number alone
        if "=" not in self.text:
            text = _ASSIGNED.sub("", text)
        if not text:
            return Score(0.0, "no mathematics")
        note = f"read {shown(text)}"
        if squeezed(text) == squeezed(self.text):
            return Score(1.0, note)
        if (based := _same_in_base(self.text, text)) is not None:
            return Score(float(based), note)
        if _WORD.fullmatch(self.text) and _WORD.fullmatch(text):
            return Score(float(self.text.casefold() == text.casefold()), note)
        if hostile(text):
            return Score(0.0, "too large to be evaluated")
        verdict = settled(self.text, text)
        if verdict is None and not _read(self.text):
            return Score(0.0, f"{note}; of the gold answer math-verify can read nothing, so its text counts")
        return Score(float(_equal(self.text, text) if verdict is None else verdict), note)


def _is_term(gold: str) -> bool:
    """Whether unmarked letters are factors of its number, not units: 5t is no 5."""
    found = _BESIDE.finditer("" if "\\$" in gold else _MARKED.sub("", gold))
    return any(each[1] not in _UNITS for each in found)


def _same_in_base(gold: str, claim: str) -> bool | None:
    """Whether both have the same digits in the same base; None if one of them names no base."""
    ours, theirs = _BASED.fullmatch(squeezed(gold)), _BASED.fullmatch(squeezed(claim))
    return None if ours is None or theirs is None else ours.groups() == theirs.groups()


def _bare(answer: str) -> str:
    """The expression of a gold answer: its announced part, in a box or between dollar signs."""
    text = gold_part(answer)
    return (last_boxed(text) or text).strip().strip("$").strip()


def _is_told(answer: str) -> bool:
    """Whether it explains how the answer is found: in several sentences, or a long one around formulas."""
    begun = [part for part in sentences(answer) if _BEGINNING.match(part)]
    words = [count for part in begun if (count := len(_SPOKEN.findall(part)))]
    formulas = "$" in answer
    return (len(words) > 1 and sum(words) >= (4 if formulas else 6)) or (formulas and sum(words) >= 12)


def _expression_in(claim: Claim) -> str:
    """The mathematics between dollar signs: the first in an announcement, or else the last.

    Without dollar signs an announced sentence is taken as it is; a closing one is not mathematics.
    """
    text = claim.text[-TAIL:]
    found = list(_FORMULA.finditer(text))
    if not found:
        return _unmarked(text) if claim.form == "announced" else ""
    inside = [next(filter(None, each.groups()), "").strip() for each in found]
    if claim.form == "closing":
        return inside[-1]
    last = 1
    while last < len(found) and _BETWEEN.fullmatch(text[found[last - 1].end() : found[last].start()]):
        last += 1
    return ", ".join(inside[:last])


def _unmarked(text: str) -> str:
    first = next(iter(sentences(text)), "")
    return first.strip().strip('*`"').rstrip(".,;!").strip('*`" ')


def _as_good(gold: Numeral, claim: Numeral) -> bool:
    """Whether they are equal, or equal to six decimals if one of them is no whole number."""
    if gold.equals(claim):
        return True
    assert gold.value is not None  # promised by boxed_numeral
    assert claim.value is not None  # asked before
    if gold.value.denominator == claim.value.denominator == 1:
        return False
    gap, size = abs(gold.value - claim.value), max(abs(gold.value), abs(claim.value))
    return gap <= min(_DECIMALS, _RELATIVE * size)


@lru_cache(maxsize=4096)
def _read(expression: str) -> tuple[Any, ...]:
    """Parse the expression into SymPy objects; empty if math-verify cannot. Nothing in it is executed."""
    from math_verify import LatexExtractionConfig, parse  # noqa: PLC0415  imports SymPy, a third of a second

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its alarms are off, as we asked
    parsed: list[Any] = parse(  # pyright: ignore[reportUnknownVariableType]  SymPy is untyped
        f"\\boxed{{{expression}}}",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  documented, but its type says int
    )
    return tuple(parsed)


@lru_cache(maxsize=4096)
def _equal(gold: str, claim: str) -> bool:
    """Compare by math-verify: numbers to six decimals, expressions by simplification, sets, intervals.

    A comparison that fails, as with 1/0, shows no equality.
    """
    from math_verify import verify  # noqa: PLC0415  see above

    return verify(list(_read(gold)), list(_read(claim)), timeout_seconds=None)
