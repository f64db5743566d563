"""``math``: equivalence, and which expression of a response is meant."""

from __future__ import annotations

import time

import pytest

from llmrl.rewards import Sample
from llmrl.rewards.kinds.math import Math


def score(response: str, answer: str) -> float | None:
    return Math()(Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)).value


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{72}", "72"),
        (r"\boxed{72}", "Natalia sold 72 clips.\n#### 72"),
        (r"\boxed{7}", r"So $x=\boxed{7}$. Checking the answer: $7+3=10$."),
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
        # MATH's own kinds of answers, as models write them.
        (r"\boxed{\dfrac{9}{2}}", r"\frac{9}{2}"),
        (r"\boxed{4\frac{1}{2}}", r"\frac{9}{2}"),
        (r"\boxed{-\frac{1}{2}}", r"\frac{-1}{2}"),
        (r"\boxed{\frac{1}{-2}}", r"-\frac{1}{2}"),
        (r"\boxed{\frac{\sqrt{3}}{3}}", r"\frac{1}{\sqrt{3}}"),
        (r"\boxed{11\sqrt{2}}", r"11\sqrt2"),
        (r"\boxed{5\sqrt{2}}", r"5\sqrt{2} \text{ cm}"),
        (r"\boxed{\sqrt[3]{27}}", "3"),
        (r"\boxed{2^{10}}", "1024"),
        (r"\boxed{9 \cdot 2}", "18"),
        (r"\boxed{6.283185}", r"2\pi"),
        (r"\boxed{\pi/4}", r"\frac{\pi}{4}"),
        (r"\boxed{90}", r"90^\circ"),
        (r"\boxed{90^{\circ}}", "90"),
        (r"\boxed{0.1}", r"10\%"),
        (r"\boxed{32348}", r"\$32,\!348"),
        (r"\boxed{11111111100}", r"11,\! 111,\! 111,\! 100"),
        (r"\boxed{x^{2} + 2x + 1}", "(x+1)^2"),
        (r"\boxed{1 + \frac{2}{x-1}}", r"\frac{x+1}{x-1}"),
        (r"\boxed{b a}", "ab"),
        (r"\boxed{2i + 1}", "1+2i"),
        (r"\boxed{3,4}", "(3,4)"),
        (r"\boxed{(3, 4)}", "(3,4)"),
        (r"\boxed{(5, 100)}", "(5,100)"),
        (r"\boxed{2,1}", "1,2"),
        (r"\boxed{5,100}", "5100"),
        (r"\boxed{{1,234}}", "1234"),
        (r"\boxed{18,000 (18 thousand)}", "18000"),
        (r"\boxed{2,5}", "2.5"),
        (r"\boxed{\{3, 1, 2\}}", r"\{1,2,3\}"),
        (r"\boxed{2 \text{ or } 1}", "1,2"),
        (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"(-\infty,2)\cup(3,\infty)"),
        (r"\boxed{(3, \infty) \cup (-\infty, 2)}", r"(-\infty,2)\cup(3,\infty)"),
        (r"\boxed{[1,2]}", r"x \in [1,2]"),
        (r"\boxed{x \lt 5}", "x < 5"),
        (r"\boxed{3 = x}", "x = 3"),
        (r"\boxed{y = 4, x = 3}", "x = 3, y = 4"),
        (r"\boxed{y = 3 + 2x}", "y = 2x+3"),
        (r"\boxed{2x + 3}", "y = 2x+3"),
        (r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\boxed{Evelyn}", r"\text{Evelyn}"),
        (r"\boxed{\text{even}}", r"\text{even}"),
        (r"\boxed{C}", r"\text{(C)}"),
        (r"\boxed{1011}", "1011_2"),
        (r"The answer is $x = 2$ or $x = 3$.", "2, 3"),
        ("The answer is x^2 - 1.", "x^2-1"),
        (r"The final answer is \(\frac{3}{4}\), as 3 < 4.", "0.75"),
        (r"The answer is $\frac12$.", "0.5"),
        (r"so $x = \sqrt{25}$", "5"),
        ("She earns $18 a day.", "18"),
        ("72", r"\boxed{72}"),
        # Terms, and numbers with units.
        (r"\boxed{2 k}", "2k"),
        (r"\boxed{5t}", "5t"),
        (r"\boxed{\frac{3t}{2}}", r"\frac{3}{2}t"),
        (r"\boxed{5}", "5cm"),
        (r"\boxed{5}", "5 m"),
        (r"\boxed{5}", r"5\text{m}"),
        (r"\boxed{5}", "5 hours"),
        (r"\boxed{5}", "5th"),
        (r"\boxed{1000}", "1e3"),
        (r"\boxed{5 m}", "5"),
        (r"\boxed{5k}", "5000"),
        # Equations with a number.
        (r"\boxed{2x+2y=4}", "x+y=2"),
        (r"\boxed{y+x=7}", "x+y=7"),
        (r"\boxed{5}", "x=5"),
        (r"\boxed{x=10/2=5}", "x=5"),
        (r"\boxed{5}", "f(2)=5"),
        (r"\boxed{f(2)=5}", "5"),
        (r"\boxed{x_{1}=5}", "x_1=5"),
        (r"\boxed{\overline{AB} = 5}", "AB=5"),
        (r"\boxed{m\angle ABC = 50^\circ}", "50"),
        (r"\boxed{\theta = 45^\circ}", "45"),
        (r"\boxed{\text{total cost} = 18}", "18"),
        (r"\boxed{9 \text{ eggs} \times \$2 = \$18}", "18"),
        (r"\boxed{A = \frac12 bh = 24}", "24"),
        (r"\boxed{2x = 10 \Rightarrow x = 5}", "5"),
        (r"\boxed{P(X = 2) = \frac14}", r"\frac14"),
        (r"\boxed{\int_0^1 x dx = \frac12}", r"\frac12"),
        (r"\boxed{x = 1, y = 2}", "(1,2)"),
        (r"\boxed{(x,y) = (1,2)}", "(1,2)"),
        # Spaces of LaTeX beside letters.
        (r"\boxed{a\,b\,\sin c}", r"ab\sin c"),
        (r"\boxed{a\!b\;\sin c}", r"ab\sin c"),
        (r"\boxed{\begin{pmatrix}1\\ c\end{pmatrix}}", r"\begin{pmatrix}1\\c\end{pmatrix}"),
        (r"\boxed{5\,x}", "5x"),
        (r"\boxed{2516_{8}}", "2516_8"),
        (r"\boxed{(2A)_{16}}", "2A_{16}"),
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
        (r"\boxed{[1,2]}", "(1,2)"),
        (r"\boxed{[0,1]}", "[0,1)"),
        (r"\boxed{(1,1)}", "(1,10)"),
        (r"\boxed{3.4}", "(3,4)"),
        (r"\boxed{(3,4)}", "3.4"),
        (r"The answer is (1,1).", "(1,10)"),
        (r"\boxed{1:00}", "12:00"),
        (r"\boxed{\frac{1}{0}}", "12"),
        (r"\boxed{\frac{1}{2^{98}}}", r"\frac{1}{2^{99}}"),
        (r"\boxed{\frac{1}{2006!}}", r"\frac{1}{2004!}"),
        (r"\boxed{1 + \frac{1}{e}}", r"1 - \frac{1}{e}"),
        (r"\boxed{q - p}", "p - q"),
        (r"\boxed{-x^2}", "(-x)^2"),
        (r"\boxed{(2, 1)}", "(1, 2)"),
        (r"\boxed{[1, 3)}", "[1, 2)"),
        (r"\boxed{2, 3}", "2"),
        (r"\boxed{n=1, 2, 3}", "n=2, 3, 4"),
        (r"\boxed{x = 4}", "x = 3"),
        (r"\boxed{x < 6}", "x < 5"),
        (r"\boxed{y = 2x + 4}", "y = 2x + 3"),
        (r"\boxed{6.28}", r"2\pi"),
        (r"\boxed{\text{seat}}", r"\text{east}"),
        (r"\boxed{seat}", "east"),
        (r"\boxed{\text{D}}", r"\text{(C)}"),
        (r"\boxed{\begin{pmatrix}2\\1\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\boxed{\frac{1}{\frac{1}{2}}}", "0.5"),
        (r"so $\frac{1}{\frac{1}{2}}$", "0.5"),
        (r"so $5!!!$", "5"),
        (r"\boxed{0.33}", r"\frac13"),
        (r"\boxed{}", "72"),
        (r"\boxed{\frac{}", "72"),
        ("I do not know.", "72"),
        (r"\boxed{2516_7}", "2516_8"),
        (r"\boxed{5}", "5t"),
        (r"\boxed{5}", "5 t"),
        (r"\boxed{5r}", "5t"),
        (r"\boxed{6pq}", "6mn"),
        (r"\boxed{3s}", "3c"),
        (r"\boxed{2}", "2r"),
        (r"\boxed{-7}", "-7d"),
        (r"\boxed{2000}", "2k"),
        (r"\boxed{\frac{3}{2}}", r"\frac{3}{2}t"),
        (r"\boxed{x-y=2}", "x+y=2"),
        (r"\boxed{25}", "x^2+y^2=25"),
        (r"\boxed{y=5}", "x=5"),
        (r"\boxed{AC=5}", "AB=5"),
        (r"\boxed{f(3)=5}", "f(2)=5"),
        (r"\boxed{7}", "2x+3y=7"),
        (r"\boxed{6}", "xy=6"),
        (r"\boxed{\alpha+\beta=90}", "90"),
        (r"\boxed{2516_{7}}", "2516_8"),
        (r"\boxed{11_3}", "11_2"),
        (r"\boxed{11_{10}}", "1011_2"),
        (r"\boxed{__import__('os').getpid()}", "72"),
        (r"\boxed{" + "9" * 401 + "+1}", "72"),
        (r"\boxed{" + "1+" * 2000 + "1}", "2001"),
    ],
)
def test_other_answers_score_0(response: str, answer: str) -> None:
    assert score(response, answer) == 0.0


@pytest.mark.parametrize(
    "solution",
    [
        "Adding, we get $2x = 14$. Thus $x = 7$.",
        "She sells 9 eggs for $2 each. That makes $18 a day.",
        "Since the two equations have the same slope, $x$ can be any real number that is not $3$",
        "First we add.\nThen we divide by 2 and get 7.",
    ],
)
def test_a_solution_without_a_box_is_no_gold_answer(solution: str) -> None:
    with pytest.raises(ValueError, match="is a text without a box; map the column with the answer, or write"):
        score("7", solution)


@pytest.mark.parametrize(
    "answer",
    [
        "$x = 2$",
        "$x = 2$ or $x = 3$",
        r"\text{no solution}",
        "3 hours",
        "x > 2 and y < 3",
        "$12$ ft. and $3$ in. tall",
        "Yes. $x = 2$",
        "Mrs. Smith",
        "All integers $n$ that are divisible by 4",
        "All positive integers $n$ that are not divisible by any odd prime",
        "Dr. Watson is the murderer",
        "Red Blue\nGreen Yellow",
        "1. True 2. False 3. True 4. False",
        "AB = CD\nAC = BD\nEF = GH\nIJ = KL",
        "$f(x) = x$ for all real numbers $x$",
        "\\begin{cases} x+1 & \\text{if } x > 0 \\\\\n0 & \\text{otherwise} \\end{cases}",
    ],
)
def test_an_answer_with_words_in_it_is_one_all_the_same(answer: str) -> None:
    assert score(rf"\boxed{{{answer.strip('$')}}}", answer) == 1.0


def test_what_a_gold_answer_announces_may_have_any_words() -> None:
    told = "Alice wins. Bob loses otherwise, whatever he does"

    assert score(rf"\boxed{{{told}}}", f"#### {told}") == 1.0
    assert score(rf"\boxed{{{told}}}", rf"\boxed{{{told}}}") == 1.0


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (r"0.\overline{3}", r"$0.\overline{ 3 }$"),
        (r"2,3,\dots,7", r"2, 3, \dots, 7"),
        (r"\text{A}\to\text{B}", r"A \to B"),
        (r"\sim", r"\sim"),
    ],
)
def test_a_gold_answer_that_no_algebra_reads_is_met_by_its_text_and_by_nothing_else(
    answer: str, same: str
) -> None:
    other = score_of(r"\boxed{x+1}", answer)

    assert score_of(rf"\boxed{{{same}}}", answer)[0] == 1.0
    assert other == (
        0.0,
        "read 'x+1'; of the gold answer math-verify can read nothing, so its text counts",
    )


def score_of(response: str, answer: str) -> tuple[float | None, str]:
    score = Math()(Sample(prompt="", response=response, answer=answer, tokens=1, finished=True))
    return score.value, score.note


@pytest.mark.parametrize(
    "claim",
    [
        r"9^{9^{9^{9}}}",
        "9^9^9^9",
        r"((9^9)^9)^9",
        r"2^{10^{10}}",
        r"e^{e^{e^{79}}}",
        "x^{99999999}",
        "(x+y+z)^{999}",
        "10^{1000000}",
        "10000000!",
        "(10^9)!",
        "5!!!!!",
        r"\binom{10^8}{50000000}",
        r"\sum_{k=1}^{10^9} k",
        r"\prod_{i=1}^{10^8} i",
        r"\int_0^{10^{10}} x^{1000} e^{-x^2} dx",
        r"\frac{d^{50}}{dx^{50}} e^{\sin x}",
        r"\sin(\cos(\tan(" * 15 + "1" + ")))" * 15,
        "(" * 3000 + "1" + ")" * 3000,
        "{" * 1000 + "1" + "}" * 1000,
        r"\sqrt{" * 400 + "2" + "}" * 400,
        r"\frac{1}{" * 201 + "2" + "}" * 201,
        "[" * 50 + "1" + "]" * 50,
        "-" * 1900 + "1",
        "|" * 1000 + "1",
        "9" * 200_000,
        "0." + "3" * 1_000_000,
    ],
    ids=lambda claim: claim[:24],
)
@pytest.mark.parametrize("answer", ["5", r"\frac{1}{2}", "x^2-1", "(1,2)", r"\sqrt{2}+\pi x"])
def test_hostile_mathematics_is_refused_at_once(claim: str, answer: str) -> None:
    start = time.process_time()

    for response in (rf"\boxed{{{claim}}}", f"so ${claim}$", f"The answer is ${claim}$."):
        assert score_of(response, answer)[0] == 0.0

    assert time.process_time() - start < 2.0  # 10 ms for most of them


def test_a_comparison_that_cannot_be_made_is_no_equality() -> None:
    assert score_of(r"\boxed{\frac{1}{0}}", "x^2") == (0.0, r"read '\\frac{1}{0}'")


def test_an_answer_that_reads_like_the_gold_one_needs_no_algebra() -> None:
    gold = r"\sum_{k=1}^{n} \left( k^2 \right)"

    assert score_of(r"\boxed{\sum_{k=1}^{n} (k^2)}", gold)[0] == 1.0


def test_1024_answers_are_judged_in_2_seconds() -> None:
    forms = ["%d", "%d", "%d", r"\frac{%d}{7}", r"%d\sqrt{2}", "(%d, 3)", "x^2+%dx", r"\frac{%d\pi}{6}"]
    working = "She sells 16 - 3 - 4 = 9 eggs a day, and makes 9 * 2 = $18 with them.\n" * 20
    answers = [forms[n % 8] % (n + 2) for n in range(1024)]
    responses = [
        f"{working}The answer is $\\boxed{{{forms[n % 8] % (n + 2 + n % 3)}}}$." for n in range(1024)
    ]
    Math().warm_up()
    start = time.process_time()

    scores = [score(response, answer) for response, answer in zip(responses, answers, strict=True)]

    assert time.process_time() - start < 2.0
    assert sum(filter(None, scores)) == sum(n % 3 == 0 for n in range(1024))
