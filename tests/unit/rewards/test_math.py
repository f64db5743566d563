"""``math``: equivalence, and which expression of a response is meant."""

from __future__ import annotations

import pytest

from llmrl.rewards import Sample
from llmrl.rewards.math import Math


def score(response: str, answer: str) -> float | None:
    return Math()(Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)).value


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{72}", "72"),
        (r"\boxed{72}", "Natalia sold 72 clips.\n#### 72"),
        (r"\boxed{1,000}", "1000"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{0.5}", r"\frac12"),
        (r"\boxed{0.333333}", r"\frac13"),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
        (r"\boxed{(x-1)(x+1)}", "x^2-1"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{2, 1}", r"\{1, 2\}"),
        (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)"),
        (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"The answer is $\frac12$.", "0.5"),
        (r"so $x = \sqrt{25}$", "5"),
        ("She earns $18 a day.", "18"),
        ("72", r"\boxed{72}"),
    ],
)
def test_equivalent_answers_score_1(response: str, answer: str) -> None:
    assert score(response, answer) == 1.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{73}", "72"),
        (r"\boxed{72}, no: \boxed{73}", "72"),
        (r"\boxed{[1, 2]}", "(1, 2)"),
        (r"\boxed{0.33}", r"\frac13"),
        (r"\boxed{}", "72"),
        (r"\boxed{\frac{}", "72"),
        ("I do not know.", "72"),
        (r"\boxed{__import__('os').getpid()}", "72"),
        (r"\boxed{" + "9" * 401 + "+1}", "72"),
        (r"\boxed{" + "1+" * 2000 + "1}", "2001"),
    ],
)
def test_other_answers_score_0(response: str, answer: str) -> None:
    assert score(response, answer) == 0.0


def test_a_gold_answer_that_cannot_be_read_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="is no expression that math-verify can read"):
        score(r"\boxed{x+1}", r"\frac{")
