"""``math``: is the response's final expression mathematically equal to the gold one?"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

from llmrl.errors import shown
from llmrl.rewards.boxed import last_boxed
from llmrl.rewards.judgement import Sample
from llmrl.rewards.number import final_number, plain_number
from llmrl.rewards.reward import Reward, Score, gold_of, reward

LONGEST = 2000
"""Characters that are read: of an expression, or of the end of a response without a box."""
_LONG_NUMERAL = re.compile(r"[0-9]{401}")
_LATEX = re.compile(r"[\\^_]")


@reward("math")
@dataclass(frozen=True, slots=True, kw_only=True)
class Math:
    r"""1 if the last ``\boxed{}`` of the response, or else its last mathematics, equals the gold answer.

    Equality is math-verify's: numbers to six decimals, expressions by simplification, sets, intervals,
    matrices. It can take for ever on a hostile expression; the deadline of scoring ends that, so its own
    alarms are off.
    """

    whole: bool = False
    """The response is nothing but the answer: no box, no dollar signs, no words around it."""

    reads_answer: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> Score:
        gold = _bare_text(gold_of(sample))
        claim = _bare_text(sample.response) if self.whole else last_boxed(sample.response)
        if claim is None:
            return _judge_text(gold, sample.response[-LONGEST:])
        return _judge_expression(gold, claim)

    def bare(self) -> Reward:
        """Gold answers come without a box."""
        return replace(self, whole=True)

    def warm_up(self) -> None:
        """SymPy takes a third of a second to import."""
        _equal(_read(r"\boxed{\frac{1}{2}}"), _read(r"\boxed{x}"))


def _judge_expression(gold: str, claim: str) -> Score:
    """Two plain numbers need no algebra, unless rounding could make them equal."""
    note = f"read {shown(claim)}"
    golden, claimed = plain_number(gold), plain_number(claim)
    if golden is not None and claimed is not None and (golden == claimed or _both_whole(golden, claimed)):
        return Score(float(golden == claimed), note)
    if len(claim) > LONGEST or _LONG_NUMERAL.search(claim):
        return Score(0.0, "the expression is too long to read")
    return Score(float(_equal(_gold_expression(gold), _read(f"\\boxed{{{claim}}}"))), note)


def _judge_text(gold: str, text: str) -> Score:
    """Without a box: the last mathematics, or the final number of a text that writes $ for dollars."""
    golden, number = plain_number(gold), final_number(text)
    claim = _read(text) if golden is None or _LATEX.search(text) else []
    if claim:
        return Score(float(_equal(_gold_expression(gold), claim)), "read the last mathematics")
    if number is None:
        return Score(0.0, "no mathematics")
    return Score(float(golden == number), f"read {shown(str(number))}")


def _both_whole(first: Fraction, second: Fraction) -> bool:
    return first.denominator == second.denominator == 1


def _bare_text(answer: str) -> str:
    """The expression of a gold answer: after GSM8K's ``####``, in a box, or between dollar signs."""
    text = answer.rpartition("####")[2]
    return (last_boxed(text) or text).strip().strip("$").strip()


def _gold_expression(gold: str) -> list[Any]:
    expression = _read(f"\\boxed{{{gold}}}")
    if not expression:
        raise ValueError(f"the gold answer {shown(gold)} is no expression that math-verify can read")
    return expression


def _read(text: str) -> list[Any]:
    """The last mathematics in a text as SymPy objects; empty without any. Nothing in it is executed."""
    from math_verify import LatexExtractionConfig, parse  # noqa: PLC0415  imports SymPy, a third of a second

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its alarms are off, as we asked
    config = [LatexExtractionConfig()]
    return parse(  # pyright: ignore[reportUnknownVariableType]  SymPy is untyped
        text,
        config,
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  documented, but its type says int
        raise_on_error=True,
    )


def _equal(gold: list[Any], claim: list[Any]) -> bool:
    from math_verify import verify  # noqa: PLC0415  see above

    return verify(gold, claim, timeout_seconds=None, raise_on_error=True)
