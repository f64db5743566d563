"""LaTeX expressions before algebra: those that only look different, and those that would take for ever."""

from __future__ import annotations

import math
import re

LONGEST = 2000
"""Most characters of an expression that is read."""
DEEPEST = 20
"""Deepest nesting of brackets that is read."""
_MOST_POWER = 100
"""Largest product of the exponents of brackets; beyond it, expanding them takes long."""

_HOSTILE = re.compile(
    r"""
      [0-9]{401}                              # a number of more than 400 digits
    | \^\s*\{?\s*[-+(]*\s*[0-9]{5}            # x^{10000}
    | \^\s*\{[^{}]*[0-9)\}]\s*\^              # a tower of powers: 10^{10^{10}}
    | \^\s*\{[^{}]*\^\s*\{[^{}]*\^           # e^{e^{e^{79}}}
    | \^\s*\(?\s*[0-9]+\s*\)?\s*\^            # and without braces: 9^9^9
    | [0-9]{4}\s*\}?\s*! | [)\]!]\s*!         # 1000!, (10^9)!, 9!!
    | \\(?:binom|tbinom|dbinom|choose|gcd|lcm|pmod|bmod|mod)(?=[^\n]*[0-9]{5})
    | (?:[-+*/|!'][\s]*){6}
    | \\(?:partial|nabla|Gamma|zeta)(?![a-z]) | \\frac\s*\{\s*d\s*[\^}]
    | \\(?:sum|prod|int|iint|iiint|oint|lim|bigcup|bigcap|limsup|liminf)(?![a-z])
    """,
    re.VERBOSE,
)
_FUNCTION = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sinh|cosh|tanh)")
_MOST_FUNCTIONS = 5
_BRACKET_POWER = re.compile(r"[)\]}]\s*\^\s*\{?\s*([0-9]{1,4})")
_DECORATION = re.compile(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\\[!,;: ]|[\s$]|(?<=[0-9])\{,\}(?=[0-9])"
)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\{([^{}]*)\}")


def squeezed(expression: str) -> str:
    """The expression without mere appearance: space, text styles, sizes; equal results mean the same."""
    text = _DECORATION.sub("", _TEXT.sub(r"\1", expression)).rstrip(".")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    return re.sub(r"\A\(([A-Za-z])\)\Z", r"\1", text)


def hostile(expression: str) -> bool:
    """Whether evaluating it might take long: too long, too deep, too high a power, an integral, a sum."""
    if len(expression) > LONGEST or _HOSTILE.search(expression) or _depth(expression) > DEEPEST:
        return True
    if len(_FUNCTION.findall(expression)) > _MOST_FUNCTIONS:
        return True
    powers = [int(power) for power in _BRACKET_POWER.findall(expression)]
    return math.prod(max(power, 1) for power in powers) > _MOST_POWER


def _depth(expression: str) -> int:
    depth = deepest = 0
    for letter in expression:
        if letter in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "})]":
            depth -= 1
    return deepest
