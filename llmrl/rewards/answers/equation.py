r"""Equations: what stands left of a number, in ``x = 5`` a name, in ``x + y = 5`` none."""

from __future__ import annotations

import re

from llmrl.rewards.answers.plain import plain

_GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell",
    "Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega",
})  # fmt: skip
_SPOKEN = frozenset({"gcd", "lcm", "max", "min", "det", "dim", "deg", "Pr"})
"""Commands that are words, whose arguments are no unknowns of the equation."""
_SHORT = frozenset({"of", "in", "is", "to", "at", "by", "an", "or", "cm", "mm", "km", "kg", "ft"})
"""Words of two letters; any other two lower-case letters are a product."""
_CALL = re.compile(r"(?<=[A-Za-z'])[ ]?\(\s{0,3}-?[0-9A-Za-z.,|=<>\\\s]{0,40}\)")
"""Arguments of a name, such as (x) and (-2), but no sum, as in x(x + 1)."""
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]{0,30}\}|[A-Za-z0-9])")
_DECORATION = re.compile(
    r"m?(?:\\(?:measured)?angle(?![A-Za-z])|\u2220)|[\s${}]"
    r"|\\(?:over(?:line|rightarrow)|(?:wide)?hat|bar|vec|math(?:bb|cal))(?![A-Za-z])"
)
_OPERATOR = re.compile(r"[-+*/^!<>0-9]|\\(?:sqrt|[dt]?frac|d?binom|log|ln|exp)(?![A-Za-z])")
_BINDING = re.compile(r"\\(?:int|lim|sum|prod)(?![A-Za-z])|\\frac\s?\{d")
"""Commands that bind letters, such as the x of a limit, and still have a value."""
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_NAME = re.compile(r"\\?[A-Za-z]+")


def leads_to_a_number(left: str) -> bool:
    """Whether the text to the left of a number makes that number the answer.

    True if it is empty, arithmetic, a name (x =, f(2) =, total cost =), or if it defines a name or leads to
    one (A = bh =, and 2x = 10, so x =); x + y = is a statement of its own.
    """
    sides = _sides(left)
    return not any(_unknowns(side) for side in sides) or any(_is_name(side) for side in sides)


def symbol(left: str) -> str:
    """The symbol that equals the number, without decoration; empty if there is none, or words."""
    named = [side for side in reversed(_sides(left)) if _is_name(side) and _unknowns(side)]
    return "" if not named or _words(named[0]) else _DECORATION.sub("", named[0])


def is_statement(text: str) -> bool:
    """Whether it equates unknowns with a number, as x^2 + y^2 = 25, and defines no name."""
    if not _EQUALS.search(text) or _BINDING.search(text) or "\\{" in text:
        return False
    sides = _split(_SUBSCRIPT.sub("", plain(text)))
    numeric = [side for side in sides if not _unknowns(side)]
    return 0 < len(numeric) < len(sides) and not any(_is_name(side) for side in sides)


def _sides(left: str) -> list[str]:
    """The sides before an equals sign."""
    return _split(left)[:-1]


def _split(text: str) -> list[str]:
    """The sides of an equation; the = inside P(X = 2) does not divide it."""
    return _CALL.sub(lambda call: call.group().replace("=", "|"), text).split("=")


def _is_name(side: str) -> bool:
    """Whether it is a name, or several between commas: (x, y)."""
    bare = _SUBSCRIPT.sub("", _CALL.sub("", _DECORATION.sub(" ", side)))
    if _OPERATOR.search(bare):
        return False
    return _words(bare) or all(_unknowns(part) == 1 for part in bare.split(","))


def _unknowns(side: str) -> int:
    """Number of letters, and of corners such as ABC; two lower-case letters are a product."""
    names = [] if _BINDING.search(side) else _NAME.findall(side)
    single = sum(
        name[1:] in _GREEK if name[0] == "\\" else len(name) == 1 or name.isupper() for name in names
    )
    return single + 2 * sum(len(name) == 2 and name.islower() and name not in _SHORT for name in names)


def _words(side: str) -> bool:
    return any(_is_word(name) for name in _NAME.findall(side))


def _is_word(name: str) -> bool:
    if name[0] == "\\":
        return name[1:] in _SPOKEN
    return not name.isupper() and (len(name) > 2 or name in _SHORT or name[0].isupper())
