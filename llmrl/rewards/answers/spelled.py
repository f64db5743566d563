"""Numbers in words: "twenty-one", "two and a half", "three quarters"."""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_TEENS = "sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {
    **{word: value for value, word in enumerate(f"{_ONES} {_TEENS}".split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}

_CARDINAL = "|".join(sorted([*_SMALL, *_SCALES], key=len, reverse=True))
_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
SPELLED = re.compile(
    rf"""
    (?<![A-Za-z0-9.,-])(?P<sign>(?:negative|minus)[ ])?
    (?!one[ ](?:of|more|that|another|each|can|could|which|way|thing)\b)    # "one" is seldom a number there
    (?: (?P<count>(?:(?:an?[ ](?=hundred|thousand|million|billion))?(?:{_CARDINAL}))
                  (?:(?:[ ]and[ ]|[ -])(?:{_CARDINAL})){{0,11}})
        (?P<more>[ ]and[ ](?:a|one)[ -]half)?
        (?:[ -](?P<part>(?:{_PART})s?))?
      | (?P<half>(?:one[ -]|an?[ ])?half) )
    (?![A-Za-z0-9])
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""A number in words, with a minus, a half or a fraction's denominator if it has one."""


def spelled_value(found: re.Match[str]) -> Fraction:
    """The value of a match of ``SPELLED``."""
    value = Fraction(1, 2) if found["half"] else Fraction(_cardinal(found["count"].lower()))
    value += Fraction(1, 2) if found["more"] else 0
    part = (found["part"] or "").lower()
    value /= _PARTS.get(part) or _PARTS.get(part.removesuffix("s")) or 1
    return -value if found["sign"] else value


def _cardinal(text: str) -> int:
    """Value of "two hundred and five thousand one": what precedes a scale multiplies it, the rest adds up."""
    total = group = 0
    for word in re.findall(r"[a-z]+", text):
        if word in _SMALL:
            group += _SMALL[word]
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in _SCALES:
            total, group = total + (group or 1) * _SCALES[word], 0
    return total + group
