"""``number``: does the number that the response ends with equal the gold number exactly?"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from llmrl.errors import shown
from llmrl.rewards.answers.answer import Claim, after_marker, claims, gold_part, sentences
from llmrl.rewards.answers.equation import leads_to_a_number, symbol
from llmrl.rewards.answers.numeral import Numeral, numerals
from llmrl.rewards.answers.plain import plain
from llmrl.rewards.answers.result import Result, concluding, results, stated
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Reward, Score, gold_of, reward

_GROUPED = re.compile(r"(?<![0-9.,/])([1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9.,]?[0-9])")
_SYMBOL = re.compile(r"[\\^_+*!<>]")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_OPENING, _CLOSING = re.compile(r"[(\[]\s*\Z"), re.compile(r"\s*[)\]]")


@reward("number")
@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    r"""1 if the response's final number equals the gold one, else 0.

    The final number is the one that the last ``\boxed{}``, ``####``, ``<answer>`` or "answer is" announces,
    or else the result of the last sentence with numbers. Separators, currency, units and number words are
    read as people read them: 50% is 50 and also 1/2, 3/4 is 0.75, 1 1/2 is 1.5. An answer that hedges ("5 or
    6") is none. The gold is the one number of the answer, after its ``####``, ``A:`` or ``=`` if it has one.
    """

    marker: str | None = None
    r"""Text that must announce the number, such as ``#`` or ``\boxed{}``; a response without it scores 0."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.marker is not None and not self.marker.strip():
            raise ValueError("marker must not be empty")

    def __call__(self, sample: Sample) -> Score:
        gold = gold_numeral(gold_of(sample))
        claim = final_numeral(sample.final_text, self.marker, finished=sample.finished)
        if claim is None or claim.value is None:
            return Score(0.0, "no number" if self.marker is None else f"no number after {shown(self.marker)}")
        return Score(float(claim.equals(gold)), f"read {shown(str(claim.value))}")

    def bare(self) -> Reward:
        """The reward without the marker, which a dataset's gold answers need not have."""
        return replace(self, marker=None)


def gold_numeral(answer: str) -> Numeral:
    """The number of a gold answer: GSM8K's ``... #### 72``, ``x = 72``, or text with one number in it.

    Raises:
        ValueError: it holds no number, or several.
    """
    text = _joined_groups(plain(gold_part(answer))).rpartition("=")[2]
    found = numerals(text)
    if len(found) != 1 or found[0].value is None:
        raise ValueError(f"the gold answer {shown(answer)} is not one number; write it alone or after '####'")
    return found[0]


def final_numeral(response: str, marker: str | None = None, *, finished: bool = True) -> Numeral | None:
    """The number that a response gives as its answer; None without one, or with several.

    With a marker: the number after the last one, on its line or the next; None without it.
    """
    if marker is not None:
        claim = after_marker(response, marker, finished=finished)
        return None if claim is None else claimed_numeral(claim)
    for claim in claims(response, finished=finished):
        if decisive(claim):
            return claimed_numeral(claim)
    return None


def decisive(claim: Claim) -> bool:
    """Whether a claim is the answer, even one without a number; otherwise an earlier one may be."""
    if claim.form != "announced":
        return True
    return claim.denied or bool(numerals(plain(claim.text), words=True))


def claimed_numeral(claim: Claim) -> Numeral | None:
    """The number that a claim states; None if it states none or several."""
    text = plain(claim.text)
    if claim.denied or (claim.cut and text[-1:].isdecimal()):
        return None  # the token budget may have cut the number itself
    found = _in_box(text) if claim.form == "box" else _in_prose(claim, text)
    return None if found is None else found.numeral


def boxed_numeral(text: str) -> Numeral | None:
    """The single number of an expression, with its units; None if there is more.

    In mathematics a comma separates: 1,2 are two numbers, although in Europe it may mark decimals.
    """
    found = _in_box(plain(text))
    if found is None or found.numeral is None or found.numeral.value is None or found.numeral.comma:
        return None
    return found.numeral


def boxed_symbol(text: str) -> str:
    """The symbol that a box equates with its number: x of ``x = 5``; empty if there is none."""
    text = _joined_groups(plain(text))
    return next((symbol(_before(text, result)) for result in results(text, words=True)), "")


def _in_box(text: str) -> Result | None:
    """The one result in a box, with only words and units around it."""
    text = _joined_groups(text)
    found = results(text, words=True)
    if not found or any(not _same(each, found[0]) for each in found[1:]):
        return None
    start, end = found[0].start, found[0].end
    if "," in text[start:end] and (_OPENING.search(text[:start]) or _CLOSING.match(text, end)):
        return None  # a point or an interval: (5,100)
    around = text[:start].rpartition("=")[2] + text[found[-1].end :]
    if _SYMBOL.search(around) or not leads_to_a_number(_before(text, found[0])):
        return None
    return found[0]


def _before(text: str, result: Result) -> str:
    return "" if result.numeral is None else text[: result.numeral.start]


def _same(first: Result, second: Result) -> bool:
    return first.numeral is not None and second.numeral is not None and first.numeral.equals(second.numeral)


def _in_prose(claim: Claim, text: str) -> Result | None:
    if claim.form == "announced":
        return _announced(_joined_groups(text))
    return _at_the_end(claim.text)


def _announced(text: str) -> Result | None:
    """The result that the first sentence with numbers states."""
    spoken = (sentence for sentence in sentences(text) if numerals(sentence, words=True))
    first = next(spoken, None)
    return None if first is None else stated(first, words=True)


def _at_the_end(text: str) -> Result | None:
    """The result of the last sentence with numbers; of its bold part, if it has one."""
    for sentence in reversed(sentences(text)):
        bold = [part for part in _BOLD.findall(sentence) if numerals(plain(part))]
        if bold or numerals(plain(sentence)):
            return concluding(plain(bold[-1] if bold else sentence))
    return None


def _joined_groups(text: str) -> str:
    """Join 1 234 567 as 1,234,567; only where a single number is expected."""
    return _GROUPED.sub(lambda found: found[1] + found[2].replace(" ", ","), text)
