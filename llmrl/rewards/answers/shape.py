"""Shapes: relations, unions and matrices, and whether their parts agree place by place."""

from __future__ import annotations

import re

from llmrl.rewards.answers.formula import alike, formula

_JOINT = re.compile(
    r"(\\cup|\\cap|\\setminus|\\pm|\\leq?(?![a-z])|\\geq?(?![a-z])|\\neq?(?![a-z])|\\in(?![a-z])|\\[lg]t(?![a-z])|[<>=]"
    r"|\\begin\{[bpvBV]?matrix\}|\\end\{[bpvBV]?matrix\}|\\\\|&)"
)
_JOINTS = {"\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "\\lt": "<", "\\gt": ">"}
_MATRIX = re.compile(r"\\(begin|end)\{b?matrix\}")
_ENTRIES = frozenset({"\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\"})
_RELATIONS = frozenset({"=", "<", ">", "\\le", "\\ge", "\\ne"})
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def settled(gold: str, claim: str) -> bool | None:
    """Whether two expressions of the same shape are equal part by part; None: algebra must tell."""
    shape, ours = _parts(gold)
    claimed_shape, theirs = _parts(claim)
    if shape != claimed_shape:
        return None
    verdicts = [_alike(a, b) for a, b in zip(ours, theirs, strict=True) if a or b]
    if all(verdicts):
        return True
    # Equations may be multiples of each other and unions in another order; these may not.
    rigid = _ENTRIES.issuperset(shape) or _solved(shape, ours, theirs) or _explicit(shape, ours, theirs)
    return False if rigid and False in verdicts and None not in verdicts else None


def _solved(shape: tuple[str, ...], gold: list[str], claim: list[str]) -> bool:
    """Whether both give the same letters numbers or bounds: x = 3, y = 4 and 3 < x < 7."""
    if not _RELATIONS.issuperset(shape):
        return False
    ours, theirs = ([piece.strip() for part in parts for piece in part.split(",")] for parts in (gold, claim))
    letters = [(a, b) for a, b in zip(ours, theirs, strict=False) if a.isalpha() or b.isalpha()]
    letterless = not any(_LETTER.search(piece) for piece in (*ours, *theirs) if not piece.isalpha())
    return len(ours) == len(theirs) and letterless and all(a == b for a, b in letters)


def _explicit(shape: tuple[str, ...], gold: list[str], claim: list[str]) -> bool:
    """Whether both give the same letter as a function of others: y = 2x + 3."""
    if shape != ("=",) or gold[0] != claim[0] or len(gold[0]) != 1 or not gold[0].isalpha():
        return False
    return gold[0] not in gold[1] + claim[1]


def _parts(text: str) -> tuple[tuple[str, ...], list[str]]:
    """The shape of an expression (relations, unions and matrices), and the parts that it joins."""
    text = _MATRIX.sub(r"\\\1{pmatrix}", re.sub(r"\\text\s*\{\s*,?\s*(?:or|and)\s*\}", ",", text))
    pieces = _JOINT.split(text)
    return tuple(_JOINTS.get(joint, joint) for joint in pieces[1::2]), [part.strip() for part in pieces[::2]]


def _alike(gold: str, claim: str) -> bool | None:
    ours, theirs = formula(gold), formula(claim)
    return None if ours is None or theirs is None else alike(ours, theirs)
