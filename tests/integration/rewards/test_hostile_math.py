"""Hostile mathematics through the scorer: none is late, none is right, and the next verdict is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from llmrl.rewards import Sample
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]

DEADLINE_S = 2.0
CLAIMS = [
    "9^{9^{9^{9}}}",
    "9^9^9^9",
    r"2^{10^{10}}",
    "(10^9)!",
    "((((10!)!)!)!)",
    r"\binom{10^8}{50000000}",
    r"\sum_{k=1}^{10^9} \frac{1}{k^k}",
    r"\int_0^{10^{10}} x^{1000} e^{-x^2} \sin(x^x) dx",
    r"\int \int \int \frac{\sin x^{y^z}}{\ln(x y z)} dx dy dz",
    r"\prod_{i=1}^{10^8} (1 + i)",
    r"\lim_{x \to 0} \frac{\sin^{50} x}{x^{50}}",
    "(x+y+z)^{999}",
    "(a+b+c+d+e)^{90} - (a+b)^{90}(c+d)^{90}",
    r"x^{x^{x^{x^{x^{x}}}}}",
    r"\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x}}}}}}}}",
    r"\sin(\cos(\tan(\sin(\cos(\tan(x^{9} + y^{9}))))))",
    r"\begin{pmatrix}" + r" \\ ".join(["x & y^2 & \\sin z"] * 40) + r"\end{pmatrix}",
    r"\frac{d^{50}}{dx^{50}} e^{\sin x}",
    "(" * 100_000 + "1" + ")" * 100_000,
    r"\frac{1}{" * 5000 + "2" + "}" * 5000,
    "9" * 2_000_000,
    "x+" * 900 + "1",
    r"\{" * 900,
    r"\left(" * 19 + "x" + r"\right)^2" * 19,
    r"\tan(1)^{\tan(2)^{\tan(3)}} + \log_{2}{3^{999}}",
    r"x^{999} - y^{999} = z^{999}, x^5 - x - 1 = 0",
]


def sample(claim: str, answer: str) -> Sample:
    return Sample(prompt="", response=rf"\boxed{{{claim}}}", answer=answer, tokens=1, finished=True)


@pytest.mark.parametrize("answer", ["7", r"\sin(x) + y^2 = 3"])
async def test_hostile_mathematics_is_never_right_and_never_late(scorer_of: MakeScorer, answer: str) -> None:
    rewards = {"math": {"kind": "math"}, "number": {"kind": "number"}}
    chosen = rewards if answer == "7" else {"math": rewards["math"]}
    scorer = await scorer_of(chosen, deadline_s=DEADLINE_S, processes=1)
    for claim in CLAIMS:
        start = time.monotonic()

        (judgement,) = await scorer.judge([sample(claim, answer)])

        assert time.monotonic() - start < DEADLINE_S + 5, claim[:40]
        assert not any(judgement.parts.values()), claim[:40]

        right, wrong = await scorer.judge([sample(answer, answer), sample("8", answer)])

        assert (right.parts["math"], wrong.parts["math"]) == (1.0, 0.0), claim[:40]
    # Refused before they are evaluated, or quick: hardly any has to be killed.
    assert scorer.take_statistics()["judgement/restarts"] <= 3
