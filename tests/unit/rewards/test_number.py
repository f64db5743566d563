"""``number``: the answer forms that models write, each with the one number that it says."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from llmrl.rewards import Sample
from llmrl.rewards.kinds.number import Number, final_numeral, gold_numeral

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"


def final_number(response: str, marker: str | None = None) -> Fraction | None:
    numeral = final_numeral(response, marker)
    return None if numeral is None else numeral.value


def sample(response: str, answer: str | None) -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)


FORMS = [
    # Bare numbers, and how they are spelt.
    ("72", "72"),
    ("0072", "72"),
    ("72.00", "72"),
    ("1.", "1"),
    (".5", "1/2"),
    ("1,234", "1234"),
    ("12,345,678", "12345678"),
    ("1,234.50", "2469/2"),
    ("1,23", "1.23"),
    ("1e3", "1000"),
    ("1.5e-2", "3/200"),
    ("9" * 64, "9" * 64),
    # Signs.
    ("-3", "-3"),
    ("+7", "7"),
    ("- 3", "-3"),
    ("x = - 3", "-3"),
    ("\u22123", "-3"),
    ("[-2]", "-2"),
    ("covid-19", "19"),
    ("a well-known 5", "5"),
    # Money, percent, units.
    ("$18", "18"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("\\$72", "72"),
    ("Rs.500", "500"),
    ("It costs $3.50.", "7/2"),
    ("50%", "50"),
    (r"50\%", "50"),
    ("5 apples", "5"),
    ("the 5th", "5"),
    ("5kg", "5"),
    # Fractions.
    ("3/4", "3/4"),
    ("6/4", "3/2"),
    ("-1/2", "-1/2"),
    ("1 1/2 cups", "3/2"),
    (r"\frac{3}{4}", "3/4"),
    (r"\dfrac34", "3/4"),
    (r"2\frac{1}{2}", "5/2"),
    # LaTeX's thousands.
    ("1{,}234", "1234"),
    (r"1\,234", "1234"),
    (r"1,\!234", "1234"),
    # Announced answers: the last announcement counts, and in it the result, not an operand.
    ("#### 72", "72"),
    ("####72", "72"),
    ("#### -72", "-72"),
    ("#### $1,000 in total for 3 days", "1000"),
    ("so 3+4=7, 7+5=12 # 12", "12"),
    ("# 12\n", "12"),
    ("The answer is 72.", "72"),
    ("The final answer is therefore 72, which is 8 more than 64.", "72"),
    ("the answer is 3 + 4 = 7", "7"),
    ("the answer is 3 + 4 = 7, since 9 > 2", "7"),
    ("the answer is 1,234 + 5 = 1,239.", "1239"),
    (r"The answer is $5 \times 3 = 15$ of 20.", "15"),
    ("**Answer:** 42", "42"),
    ("**Answer**: 42", "42"),
    ("Answer:\n\n**42**\nThat was 1 question.", "42"),
    ("answer = 8", "8"),
    (r"\boxed{72}", "72"),
    (r"\boxed{x = 5}", "5"),
    (r"\boxed{5 \text{ cm}} as 1 m is 100 cm", "5"),
    (r"so \(\boxed{\frac{3}{4}}\)", "3/4"),
    (r"\boxed{1}, no, \boxed{2} of 3", "2"),
    ("The answer is 5. But wait, the answer is 6.", "6"),
    ("It is 5. The answer is: yes", "5"),
    # Not announced: the last number.
    ("5 apples and 7 pears", "7"),
    ("A box of 5 x 3 = 15", "15"),
    ("2^10 = 1024", "1024"),
    ("1,234 + 5 = 1,239", "1239"),
    ("on 12/25/2020 she had 5", "5"),
    ("H2O and 5", "5"),
    ("#### Step 4\nThe total is 12", "12"),
    ("## 2. Sum\nThe total is 12", "12"),
]


@pytest.mark.parametrize(("response", "value"), FORMS)
def test_the_final_number_of_a_response(response: str, value: str) -> None:
    assert final_number(response) == Fraction(value)


@pytest.mark.parametrize("response", ["", "no", "3/0", "9" * 65, r"\boxed{x^2}", "CO2", "\u0663", "10-5"])
def test_a_response_without_a_readable_number_scores_0_and_says_so(response: str) -> None:
    assert final_number(response) is None

    score = Number()(sample(response, "5"))

    assert (score.value, score.note) == (0.0, "no number")


@pytest.mark.parametrize(
    ("marker", "response", "value"),
    [
        ("#", "3 + 4 = 7 # 7", 7),
        ("#", "3 + 4 = 7", None),
        ("####", "#### 72", 72),
        ("####", r"\boxed{72}", None),
        ("\\boxed{}", r"\boxed{72} in 3 steps", 72),
        ("\\boxed{", r"\boxed{72} in 3 steps", 72),
        ("\\boxed{}", r"\boxed{72", None),
        ("Result:", "Result: 5\nResult:\n6\n7", 6),
        ("Result:", "7\nResult: none", None),
    ],
)
def test_a_marker_must_announce_the_number(marker: str, response: str, value: int | None) -> None:
    assert final_number(response, marker) == value


def test_numbers_are_compared_exactly() -> None:
    reward = Number()

    assert reward(sample("0.1", "1/10")).value == 1.0
    assert reward(sample("0.3333333333333333", "1/3")).value == 0.0
    assert reward(sample("9007199254740993", "9007199254740992")).value == 0.0  # equal as floats


@pytest.mark.parametrize(
    ("answer", "value"),
    [("5 + 3 = <<5+3=8>>8\n#### 8", "8"), ("#### -1,200", "-1200"), ("x = 3/4", "3/4"), ("12 apples", "12")],
)
def test_the_number_of_a_gold_answer(answer: str, value: str) -> None:
    assert gold_numeral(answer).value == Fraction(value)


@pytest.mark.parametrize("answer", ["blue", "3 or 4", "#### ", "1/0", "9" * 65])
def test_a_gold_answer_must_be_one_number(answer: str) -> None:
    with pytest.raises(ValueError, match="is not one number; write it alone or after '####'"):
        gold_numeral(answer)


def test_a_row_without_answer_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="the row has no gold answer"):
        Number()(sample("5", None))


@pytest.mark.parametrize("split", ["test", "train"])
def test_every_gold_answer_of_gsm8k_grades_correct(split: str) -> None:
    path = GSM8K / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: the shared data of the project is not mounted")
    answers = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]

    assert len(answers) == {"test": 1319, "train": 7473}[split]
    assert [answer for answer in answers if Number()(sample(answer, answer)).value != 1.0] == []


ENDINGS = [
    "#### {}",
    "A: {}",
    "The answer is {}.",
    "**Final Answer:** ${}$",
    "Therefore, the answer is $\\boxed{{{}}}$.",
    "<answer>{}</answer>",
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_real_solutions_are_graded_right_whatever_their_ending(ending: str) -> None:
    path = GSM8K / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: the shared data of the project is not mounted")
    answers = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]

    misjudged = 0
    for answer in answers:
        body, _, gold = answer.rpartition("#### ")
        value = gold_numeral(answer).value
        assert value is not None
        right, wrong = (f"{body}{ending.format(claim)}" for claim in (gold, f"{value + 1}"))
        misjudged += (Number()(sample(right, answer)).value, Number()(sample(wrong, answer)).value) != (
            1.0,
            0.0,
        )

    assert misjudged == 0


HOSTILE = {
    "digits": "9" * 200_000,
    "thousands": "1" + ",111" * 50_000 + "x",
    "numbers": "1 " * 100_000,
    "hashes": "#" * 200_000,
    "headings": "# 1" * 60_000,
    "open boxes": "\\boxed{" * 30_000,
    "announcements": "answer is " * 20_000,
    "empty lines": "answer is" + "\n" * 100_000,
    "minus signs": "- " * 100_000,
    "fractions": "1/" * 100_000,
    "stars": "####" + "*" * 100_000,
    "megabytes of digits": "The answer is " + "9" * 3_000_000,
    "words": "The answer is " + "one hundred and " * 15_000,
    "calculators": "<<" * 100_000,
    "text": "\\text{" * 40_000,
    "bold": "**1" * 60_000,
    "italics": " *1" * 60_000,
    "sentences": "1. " * 70_000,
    "questions": "#### 1\n" + "Q " * 100_000,
    "corrections": "#### 1\n" + "I have " * 30_000,
    "groups": "#### 1" + " 234" * 50_000,
    "full stops": "#### 1" + ".234" * 50_000,
    "sums": "#### " + "1 + " * 50_000,
    "equations": "The answer is " + "1 = " * 50_000,
    "units": "The answer is " + "1 hour 1 " * 25_000,
    "letters": "The answer is " + "a" * 200_000,
    "fractions in LaTeX": r"\boxed{" + r"\frac{1}{2}" * 18_000 + "}",
    "choices": "The answer is " + "5 or " * 40_000,
}


@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_response_is_read_in_linear_time(response: str) -> None:
    start = time.process_time()

    final_number(response)

    assert time.process_time() - start < 2.0  # 0.1 s on an idle core; a quadratic pattern takes minutes
