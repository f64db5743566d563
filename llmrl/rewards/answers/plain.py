"""Plain text: other spellings of minus, thousands, fractions and LaTeX's text, as ASCII would write them."""

from __future__ import annotations

import re

_LETTERS = str.maketrans(
    {
        **{0xFF01 + offset: chr(0x21 + offset) for offset in range(94)},  # full-width forms
        **{superscript: f"^{digit}" for digit, superscript in enumerate("\u2070\u00b9\u00b2\u00b3")},
        **{chr(0x2070 + digit): f"^{digit}" for digit in range(4, 10)},
        **dict.fromkeys("\u2212\ufe63\uff0d\u207b", "-"),
        **dict.fromkeys("\u2044\u2215", "/"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "\u00d7": "*",
        "\u00b7": "*",
        "\u22c5": "*",
        "\u00f7": "/",
    }
)
_VULGAR = {
    "\u00bd": "1/2", "\u2153": "1/3", "\u2154": "2/3", "\u00bc": "1/4", "\u00be": "3/4", "\u2155": "1/5",
    "\u2156": "2/5", "\u2157": "3/5", "\u2158": "4/5", "\u2159": "1/6", "\u215a": "5/6", "\u215b": "1/8",
    "\u215c": "3/8", "\u215d": "5/8", "\u215e": "7/8",
}  # fmt: skip
_GROUPING = re.compile("(?<=[0-9])['_\u2019\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u3000]")
_DASH = re.compile(r"(?<![0-9A-Za-z)\]}%])(?<![0-9A-Za-z)\]}%] )[\u2010-\u2014](?=[$.0-9])")
_CONTINENTAL = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:(?:\.[0-9]{3}){2,8}+(?:,[0-9]++)?|(?:\.[0-9]{3})++,[0-9]{1,2})(?![0-9.,])"
)
_SCIENTIFIC = re.compile(
    r"(?<=[0-9])[ ]?(?:\*|x|\\times|\\cdot)[ ]?10[ ]?(?:\^|\*\*)[ ]?\{?([-+]?[0-9]{1,3})\}?"
)
_SPACED_MINUS = re.compile(r"(\A|[={#:(\[])(\s*)-[ ]+(?=[$.0-9])")
_MINUS_WORD = re.compile(r"\b(?:negative|minus)[ ](?=[$.0-9])", re.IGNORECASE)
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_EMPHASIS = re.compile(r"\*\*(?![0-9])|(?<![0-9)])\*\*|`|__")
_SQUARED_UNIT = re.compile(
    r"((?<=[0-9])[ ]?(?:[mcdk]?m|ft|feet|in|inch(?:es)?|yd|yards?|mi|miles?|met(?:er|re)s?|units?))"
    r"[ ]?\^[23](?![0-9])"
)
"""Powers of units to drop; without LaTeX only of certain units: the x^2 of 18 x^2 is none."""
_SLANTED = re.compile(r"(?<!\S)\*([^*\s][^*\n]{0,80})\*(?![\w*])")


def plain(text: str) -> str:
    """Normalize a text to one spelling for each sign, without emphasis; numbers keep their values."""
    if not text.isascii():
        text = _ascii(text)
    if "\\" in text or "{" in text:
        text = _without_latex(text)
    text = _SQUARED_UNIT.sub(r"\1", text)
    text = _CALCULATOR.sub("", text)
    text = _SCIENTIFIC.sub(r"e\1", text)
    text = _GROUPING.sub(",", _SLANTED.sub(r"\1", _EMPHASIS.sub("", text)))
    text = _CONTINENTAL.sub(lambda found: found.group().replace(".", "").replace(",", "."), text)
    return _SPACED_MINUS.sub(r"\1\2-", _MINUS_WORD.sub("-", text))


def _ascii(text: str) -> str:
    text = _SPACES.sub(" ", _DASH.sub("-", _GROUPING.sub(",", text)))
    for letter, fraction in _VULGAR.items():
        text = text.replace(letter, f" {fraction}")
    return text.translate(_LETTERS)


_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|mathtt|mbox|bold|boldsymbol|underline|emph)"
    r"\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"(-?)\s*\\[dtc]?frac\s*\{\s*(-?)([0-9.,]+)\s*\}\s*\{\s*(-?)([0-9.,]+)\s*\}")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*([0-9])\s*([0-9])(?![0-9])")
_SILENT = re.compile(r"\\(?:!|(?:left|right|displaystyle|mathord|big|Big|limits)(?![A-Za-z]))")
_FACTOR = re.compile(r"(?<=[0-9])(?:\\[,;: ])+(?=[A-Za-z](?![A-Za-z]))")
"""Space before a lone letter, which is a factor more often than a word: 5\\,x."""
_BLANK = re.compile(r"\\(?:[ ;:,()\[\]]|(?:quad|qquad|newline)(?![A-Za-z]))|~")
_DEGREES = re.compile(r"\s?\^\s?\{?\s?\\circ\s?\}?|\u00b0")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])[ ]?\^\{?[ ]?[23]\}?")


def _without_latex(text: str) -> str:
    text = re.sub(r"(?<=[0-9])(?:\{,\}|\\,|,\\![ ]?|\\[ ])(?=[0-9]{3})", ",", text)
    text = _WRAPPER.sub(r" \1 ", text)
    text = re.sub(r"\\([$%#&])", r"\1", _FACTOR.sub("", _SILENT.sub("", text)))
    text = _FRACTION.sub(_inline_fraction, text)
    text = _SHORT_FRACTION.sub(r" \1/\2", text)
    text = _UNIT_POWER.sub("", _DEGREES.sub(" degrees", text))
    text = re.sub(r"\\(?:cdot|times|ast)(?![A-Za-z])", "*", text)
    text = re.sub(r"\\(?:approx|simeq|Rightarrow|implies|rightarrow|equiv)(?![A-Za-z])", "=", text)
    text = re.sub(r"\\div(?![A-Za-z])", "/", text)
    return re.sub(" {2,}", " ", _BLANK.sub(" ", text))


def _inline_fraction(found: re.Match[str]) -> str:
    """-1/2 for \\frac{-1}{2}; a number before it makes it mixed, as in 2\\frac{1}{2}."""
    minus, top_minus, top, bottom_minus, bottom = found.groups()
    negative = (minus + top_minus + bottom_minus).count("-") % 2
    return f" {'-' if negative else ''}{top}/{bottom}"
