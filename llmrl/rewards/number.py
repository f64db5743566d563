"""``number``: is the number that the response ends with the gold number, exactly?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from llmrl.errors import shown
from llmrl.rewards.boxed import OPENING, closing_brace
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Reward, Score, gold_of, reward

LONGEST = 64
"""Characters of the longest number that is read; arithmetic on longer ones could take for ever."""

_DIGITS = r"(?>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]++)?|\.[0-9]++)"
_NUMBER = re.compile(
    rf"""
    (?:(?<![0-9A-Za-z.)\]}}%]) (?P<sign>[-+]))?    # after a digit or a word, - is an operator or a hyphen
    (?:\\?\$[ ]?(?P<inner>[-+])?)?                 # $5, -$5, $-5
    (?<![0-9A-Za-z_^])                             # the 2 of H2O or x^2 is no answer
    (?>
        (?:(?P<whole>{_DIGITS})[ ]+(?=[0-9]++/[0-9]))?
        (?P<top>{_DECIMAL}) (?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9A-Za-z]))?
        (?:[ ]?/[ ]?(?P<bottom>{_DECIMAL}))?
    )
    """,
    re.VERBOSE,
)
_OPERAND = re.compile(r"\s*(?:[-+*/^=x]|\\times|\\cdot|\\div|[\u00d7\u00b7\u00f7])\s*\\?\$?\(?[0-9.]")
_ANNOUNCEMENT = re.compile(
    r"""
    \\boxed\{
    | (?<!\#)\#{4,}+[ \t]*+(?=[-+$\\*]*+[ ]?[.0-9])            # "#### 72", but not the heading "#### Step 4"
    | (?<!\#)\#{1,3}+[ \t]*+(?=[-+$\\*]*+[ ]?[.0-9][0-9.,/]*+[^\w\n]*+$)
    | \banswer\b[^\n.]{0,30}?(?:\bis\b|[:=])
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_ANNOUNCEMENTS_TRIED = 3
"""A response full of unclosed boxes must not take quadratic time."""
_LINE = re.compile(r"[^\n0-9A-Za-z]*[^\n]*")


@reward("number")
@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    r"""1 if the response's final number equals the gold one, else 0.

    The final number is what the last ``\boxed{}``, ``####``, ``#`` or "answer is" announces, or else the last
    number of all. Commas, currency and percent signs do not count (50% is 50); 3/4 is 0.75 and 1 1/2 is 1.5.
    The gold is the one number of the answer, after its ``####`` or ``=`` if it has one.
    """

    marker: str | None = None
    r"""Text that must announce the number, such as ``#`` or ``\boxed{}``; a response without it scores 0."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.marker is not None and not self.marker.strip():
            raise ValueError("marker must not be empty")

    def __call__(self, sample: Sample) -> Score:
        gold = gold_number(gold_of(sample))
        claim = final_number(sample.response, self.marker)
        if claim is None:
            return Score(0.0, "no number" if self.marker is None else f"no number after {shown(self.marker)}")
        return Score(float(claim == gold), f"read {shown(str(claim))}")

    def bare(self) -> Reward:
        """The gold answers of a dataset need not carry the marker."""
        return replace(self, marker=None)


def gold_number(answer: str) -> Fraction:
    """The number of a gold answer: GSM8K's ``... #### 72``, ``x = 72``, or text with one number in it.

    Raises:
        ValueError: it holds no number, or several.
    """
    text = _plain(answer.rpartition("####")[2].rpartition("=")[2])
    values = [_value(found) for found in _NUMBER.finditer(text)]
    if len(values) != 1 or values[0] is None:
        raise ValueError(f"the gold answer {shown(answer)} is not one number; write it alone or after '####'")
    return values[0]


def final_number(response: str, marker: str | None = None) -> Fraction | None:
    """The number that the last announcement announces, or else the last number; None without one.

    With a marker: the number after the last one, on its line or the next; None without it.
    """
    text = _plain(response)
    if marker is not None:
        boxed = marker.startswith(OPENING)
        before, found, _ = text.rpartition(OPENING if boxed else marker)
        return _first_result(_announced(text, len(before) + len(found), boxed=boxed)) if found else None
    announcements = list(_ANNOUNCEMENT.finditer(text))[-_ANNOUNCEMENTS_TRIED:]
    for announcement in reversed(announcements):
        value = _first_result(_announced(text, announcement.end(), boxed=announcement.group() == OPENING))
        if value is not None:
            return value
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def plain_number(text: str) -> Fraction | None:
    """The number that a text is, up to ``$``, space and a full stop around it; None if it is more."""
    text = _plain(text).strip().rstrip(".").strip("$ ")
    found = _NUMBER.fullmatch(text)
    return None if found is None else _value(found)


def _announced(text: str, start: int, *, boxed: bool) -> str:
    """What stands in a box, or on the rest of a line; on the next line with text if that rest has none."""
    if boxed:
        end = closing_brace(text, start)
        return "" if end is None else text[start:end]
    while start < len(text):
        line = _LINE.match(text, start)
        if line is None or re.search(r"[0-9A-Za-z]", line.group()):
            return "" if line is None else line.group()
        start = line.end() + 1
    return ""


def _first_result(text: str) -> Fraction | None:
    """The first number that is not an operand: 7 in "3 + 4 = 7, so 2 more than 5"."""
    return next((_value(found) for found in _results(text)), None)


def _results(text: str) -> Iterator[re.Match[str]]:
    return (found for found in _NUMBER.finditer(text) if not _OPERAND.match(text, found.end()))


def _plain(text: str) -> str:
    """Other spellings of minus, thousands and fractions, as ASCII writes them."""
    if not text.isascii():
        text = re.sub("[\u2212\ufe63\uff0d]", "-", text)
    if "\\" in text or "{" in text:
        text = re.sub(r"\\!", "", text)
        text = re.sub(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9])", ",", text)
        text = re.sub(r"\\[dt]?frac\s*\{\s*([0-9.,]+)\s*\}\s*\{\s*([0-9.,]+)\s*\}", r" \1/\2", text)
        text = re.sub(r"\\[dt]?frac\s*([0-9])\s*([0-9])(?![0-9])", r" \1/\2", text)
    return re.sub(r"(^|[={#])(\s*)-[ ]+(?=[$.0-9])", r"\1\2-", text)


def _value(found: re.Match[str]) -> Fraction | None:
    """The exact value; None if it is too long to read or divides by zero."""
    if len(found.group()) > LONGEST:
        return None
    value = _fraction(found["top"]) * Fraction(10) ** int(found["exponent"] or 0)
    bottom = _fraction(found["bottom"] or "1")
    if bottom == 0:
        return None
    value = _fraction(found["whole"] or "0") + value / bottom
    return -value if (found["sign"] == "-") != (found["inner"] == "-") else value


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
