"""Numerals: every number in a text, however it is written, with its place and its exact value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from llmrl.rewards.answers.spelled import SPELLED, spelled_value

LONGEST = 64
"""Most characters of a number that is read; arithmetic on longer ones could take for ever."""
_BIGGEST_POWER = 400
"""Most bits of a power that is computed."""

_DIGITS = r"""(?>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])
    | [0-9]{1,2}(?:,[0-9]{2}(?=,)){1,5}+,[0-9]{3}(?![0-9])    # India groups by two: 12,34,567
    | [0-9]++)"""
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]++)?|\.[0-9]++)"
_NUMBER = re.compile(
    rf"""
    (?:(?<![0-9A-Za-z.)\]}}%]) (?P<sign>[-+]))?    # after a digit or a word, - is an operator or a hyphen
    (?: (?P<money>(?:[$\u20ac\u00a3\u00a5\u20b9]|\b(?:Rs\.?|USD|EUR|GBP))[ ]?)(?P<inner>[-+])?  # $5, -$5, $-5
      | (?<![0-9A-Za-z_^\u221a]) )                 # the 2 of H2O or x^2 is no number
    (?>
        (?:(?P<whole>{_DIGITS})(?:[ ]+|[ ]and[ ]|-)(?=[0-9]++/[0-9]))?
        (?P<top>{_DECIMAL}) (?P<comma>,[0-9]{{1,2}}(?![0-9,]))?
        (?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9A-Za-z]))?
        (?:(?:\^|\*\*)\{{?(?P<power>[0-9]{{1,2}})(?![0-9])(?!\.[0-9])\}}?)?
        (?: [ ]?/[ ]?(?P<bottom>{_DECIMAL}) | :(?P<minutes>[0-9]{{1,2}})(?![0-9]) )?
    )
    """,
    re.VERBOSE,
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_COUNTED = 10**6
"""Least scale that is also a unit in which answers are counted."""
_LETTERS = {"k": 10**3, "m": 10**6, "b": 10**9}
_SUFFIX = re.compile(
    r"""
    [ ]?(?P<percent>%|per[ ]?cent\b)
    | [ ](?P<word>hundred|thousand|million|billion|trillion)\b
    | (?P<letter>[kK])\b | (?P<wealth>[mMbB])\b
    | [ ]?(?P<cents>cents?\b|\u00a2)
    | [ ](?P<dozen>dozens?\b)
    """,
    re.VERBOSE,
)
_UNKNOWN = re.compile(
    r"[xyznabie](?![A-Za-z])|\s?(?:\^|\\(?:sqrt|pi|times|cdot|ln|log|sin|cos|tan)|[\u03c0\u221a])"
)
"""Text that makes the number before it a factor or a base: 2x, 3\\sqrt{2}."""
_COMPOUND = re.compile(
    r"[ ]?(?!and\b)(?P<big>[a-z]+)?,?[ ](?:and[ ])?(?P<count>[0-9]{1,3})[ ]?(?P<small>[a-z]+)\b",
    re.IGNORECASE,
)
_FACTORS = {
    ("hour", "minute"): 60,
    ("minute", "second"): 60,
    ("feet", "inche"): 12,
    ("dollar", "cent"): 100,
    ("pound", "ounce"): 16,
    ("week", "day"): 7,
    ("day", "hour"): 24,
    ("year", "month"): 12,
}
"""Number of smaller units in the larger one; names without the s of their plural."""
_ABBREVIATIONS = {
    "hr": "hour",
    "min": "minute",
    "sec": "second",
    "foot": "feet",
    "ft": "feet",
    "inch": "inche",
    "in": "inche",
    "lb": "pound",
    "oz": "ounce",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeral:
    """A number in a text."""

    value: Fraction | None
    """Value; None if it is too long to read, divided by zero, or a factor of something."""
    others: frozenset[Fraction] = frozenset()
    """Values of the same quantity in other units: 50% is also 1/2, 50 cents are 1/2 dollar."""
    start: int
    end: int
    signed: bool = False
    """Whether it has a sign of its own."""
    comma: bool = False
    """Whether its decimals follow a comma."""

    def equals(self, other: Numeral) -> bool:
        """Whether the values are equal, exactly; if only one has another unit, also in that one."""
        if self.value is None or other.value is None:
            return False
        if self.value == other.value:
            return True
        alike = bool(self.others) == bool(other.others)
        return not alike and (self.value in other.others or other.value in self.others)


def numerals(text: str, *, words: bool = False) -> list[Numeral]:
    """Every numeral of a plain text (see ``plain``) in order; also those in words, if asked."""
    found = list(_written(text))
    if words:
        taken = [(numeral.start, numeral.end) for numeral in found]
        spoken = [_spoken(match) for match in SPELLED.finditer(text)]
        found += [
            each for each in spoken if all(each.end <= start or each.start >= end for start, end in taken)
        ]
        found.sort(key=lambda numeral: numeral.start)
    return found


def _written(text: str) -> Iterator[Numeral]:
    end = 0
    for found in _NUMBER.finditer(text):
        if found.start() < end:
            continue  # part of a compound: the 30 of "2 hours 30 minutes"
        numeral = _compound(text, found) or _single(text, found)
        end = numeral.end
        yield numeral


def _single(text: str, found: re.Match[str]) -> Numeral:
    value, end = _value(found), found.end()
    others: frozenset[Fraction] = frozenset()
    suffix = _SUFFIX.match(text, end)
    if suffix is not None and value is not None:
        value, others = _scaled(value, suffix, money=found["money"] is not None)
        end = suffix.end()
    if _UNKNOWN.match(text, end):
        value = None
    signed = (found["sign"] or found["inner"]) is not None
    comma = found["comma"] is not None
    return Numeral(value=value, others=others, start=found.start(), end=end, signed=signed, comma=comma)


def _scaled(value: Fraction, suffix: re.Match[str], *, money: bool) -> tuple[Fraction, frozenset[Fraction]]:
    """The value with its suffix, and the values in other units."""
    if suffix["percent"] or suffix["cents"]:
        return value, frozenset({value / 100})
    if suffix["dozen"]:
        return value * 12, frozenset({value})
    if suffix["word"]:
        scale = _SCALES[suffix["word"]]
        # A question in millions is answered by "3 million" or "3".
        return value * scale, frozenset({value} if scale >= _COUNTED else ())
    letter = suffix["letter"] or (suffix["wealth"] if money else None)
    return value * _LETTERS[letter.lower()] if letter else value, frozenset()


def _compound(text: str, found: re.Match[str]) -> Numeral | None:
    """One quantity in two units, such as "2 hours and 30 minutes" or "$18 and 50 cents"."""
    rest, value = _COMPOUND.match(text, found.end()), _value(found)
    if rest is None or value is None:
        return None
    big = _unit(rest["big"] or ("dollar" if found["money"] else ""))
    factor = _FACTORS.get((big, _unit(rest["small"])))
    if factor is None:
        return None
    count = Fraction(rest["count"])
    in_small = frozenset({value * factor + count})
    return Numeral(value=value + count / factor, others=in_small, start=found.start(), end=rest.end())


def _unit(name: str) -> str:
    singular = name.lower().removesuffix("s")
    return _ABBREVIATIONS.get(singular, singular)


def _spoken(found: re.Match[str]) -> Numeral:
    return Numeral(value=spelled_value(found), start=found.start(), end=found.end())


def _value(found: re.Match[str]) -> Fraction | None:
    """The exact value of the number without its suffix."""
    if len(found.group()) > LONGEST or (found["comma"] and not found["top"].isdecimal()):
        return None
    value = _fraction(found["top"] + (found["comma"] or "").replace(",", "."))
    value *= Fraction(10) ** int(found["exponent"] or 0)
    power = int(found["power"] or 1)
    if power * max(value.numerator.bit_length(), value.denominator.bit_length()) > _BIGGEST_POWER:
        return None
    return _joined(value**power, found)


def _joined(top: Fraction, found: re.Match[str]) -> Fraction | None:
    """The value with its denominator or minutes, whole part and sign; None if it divides by zero."""
    value: Fraction | None = top
    if found["minutes"]:
        minutes = int(found["minutes"])
        clock = len(found["minutes"]) == 2 and minutes < 60 and top.denominator == 1
        value = top + Fraction(minutes, 60) if clock else _ratio(top, Fraction(minutes))
    elif found["bottom"]:
        value = _ratio(top, _fraction(found["bottom"]))
    if value is None:
        return None
    value += _fraction(found["whole"] or "0")
    return -value if (found["sign"] == "-") != (found["inner"] == "-") else value


def _ratio(top: Fraction, bottom: Fraction) -> Fraction | None:
    return top / bottom if bottom else None


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
