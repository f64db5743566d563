"""``choice``: every way to name an option, and what names none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Sample, build_rewards
from llmrl.rewards.kinds.choice import Choice

QUESTION = """What is the capital of France?
A. London
B. Paris
C. Berlin
D. New Paris
Answer with the letter."""


def score(response: str, answer: str = "B", prompt: str = QUESTION) -> float | None:
    return Choice()(Sample(prompt=prompt, response=response, answer=answer, tokens=1, finished=True)).value


RIGHT = [
    "B",
    "b",
    "B.",
    "(B)",
    "B)",
    "**B**",
    "B. Paris",
    "(B) Paris",
    "**B. Paris**",
    "B: Paris",
    "The answer is B",
    "The answer is (B).",
    "The answer is **B**.",
    "The answer is B. Paris",
    "The answer is B because it is.",
    "The answer is Paris.",
    "The correct answer is B, not A.",
    "Answer: B",
    "Answer: (B) Paris",
    "Answer: Paris",
    "Answer: option B",
    "Final Answer: B",
    r"\boxed{B}",
    r"\boxed{(B)}",
    r"\boxed{\text{B}}",
    r"\boxed{\text{(B) Paris}}",
    r"\boxed{Paris}",
    "<answer>B</answer>",
    '{"answer": "B"}',
    "Paris",
    "It is Paris.",
    "The correct option is B.",
    "So option B is correct.",
    "The best choice is B.",
    "I choose (B).",
    "A is London, which is wrong. C is Berlin. So the answer is B.",
    "(A) is wrong. Therefore (B) is correct.",
    "The capital of France is Paris.\n\nB",
    "<think>A or C? The answer is A.</think>B",
    "The answer is A. Wait, that is wrong. The answer is B.",
    r"We get \boxed{\frac{10}{2}}. Answer: B",
    r"$x = \boxed{3.5}$, so the nearest is 4. The correct answer is B.",
    "So $n = \\boxed{10}$ halves, that is 5.\n\n**Answer: B**",
]

WRONG = [
    "",
    "A",
    "E",
    "A and B",
    "B or C",
    "I don't know.",
    "Bears live here",
    "New Paris",
    "Paris or London",
    "Both (A) and (B) are correct.",
    "The answer is A or B.",
    "The answer is not B.",
    "The answer is A cat",
    "The answer is D. New Paris",
    "The answer is B. Wait, that is wrong. The answer is C.",
    r"\boxed{}",
    r"\boxed{A, B}",
    "<think>The answer is B.</think>",
]


@pytest.mark.parametrize("response", RIGHT)
def test_the_gold_option_in_every_form_scores_1_and_no_other_does(response: str) -> None:
    assert score(response) == 1.0
    assert score(response, "C") == 0.0


@pytest.mark.parametrize("response", WRONG)
def test_another_option_two_or_none_score_0(response: str) -> None:
    assert score(response) == 0.0


def test_the_gold_may_be_the_text_of_an_option_and_options_may_stand_in_one_line() -> None:
    prompt = "How many? (A) 3 apples (B) 4 apples (C) none"

    assert score("The answer is (B).", "4 apples", prompt) == 1.0
    assert score("4 apples", "(B)", prompt) == 1.0
    assert score("none", "(B)", prompt) == 0.0


def test_options_are_read_from_the_last_message_and_not_from_what_a_template_makes_of_it() -> None:
    asked = "Capital of Germany?\nA. London\nB. Paris\nC. Rome\nD. Berlin"
    example = ({"role": "user", "content": "A. red\nB. blue"}, {"role": "assistant", "content": "B. blue"})
    rendered = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"

    def chosen(response: str, answer: str) -> float | None:
        sample = Sample(prompt=rendered, response=response, answer=answer, tokens=1, finished=True)
        return Choice()(replace(sample, messages=(*example, {"role": "user", "content": asked}))).value

    assert chosen("The answer is Berlin.", "D") == 1.0
    assert chosen("Berlin", "Berlin") == 1.0
    assert chosen("The answer is Paris.", "D") == 0.0
    assert chosen("blue", "B") == 0.0


NUMBERS = "Which?\nA) -3 B) 3 C) 7 D) 1/3"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{-3}", "A"),
        (r"\boxed{3}", "B"),
        ("The answer is -3.", "-3"),
        (r"The answer is $\frac{1}{3}$.", "D"),
        ("The answer is x = 7.", "C"),
        ("3 + 4 = 7", "C"),
    ],
)
def test_an_option_that_is_a_number_is_said_with_its_sign(response: str, answer: str) -> None:
    assert score(response, answer, NUMBERS) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{-7}",
        "The answer is -7.",
        r"\boxed{\sqrt{7}}",
        r"\boxed{7^2}",
        r"\boxed{1/7}",
        "7,000",
        "17 or 7^2",
    ],
)
def test_a_number_that_is_part_of_a_term_is_no_option(response: str) -> None:
    assert score(response, "C", NUMBERS) == 0.0


def test_terms_that_differ_in_a_sign_are_different_options() -> None:
    prompt = "Which?\nA. x+1\nB. x-1\nC. $x^{2}$\nD. x"

    said = {"A": r"\boxed{x + 1}", "B": r"\boxed{x-1}", "C": r"\boxed{x^2}", "D": r"\boxed{x}"}
    for letter, response in said.items():
        assert [score(response, gold, prompt) for gold in "ABCD"] == [
            float(letter == gold) for gold in "ABCD"
        ]


@pytest.mark.parametrize(
    "response",
    [
        "The answer cannot be B.",
        "The answer can't be B.",
        "The correct answer would not be B.",
        "I would not choose B.",
        "Do not pick option B.",
        "The correct option cannot be B.",
        "It is not Paris.",
        "The answer is certainly not Paris.",
        "(B) is wrong.",
    ],
)
def test_an_option_that_is_rejected_is_not_chosen(response: str) -> None:
    assert score(response) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "The correct answer is therefore B.",
        "The correct answer is clearly B.",
        "The answer is most likely (B).",
        "It is not Berlin but Paris.",
        "I would not choose A, so I choose B.",
        "B\n\nExplanation: A is wrong.",
        "B. Paris\n\nBerlin is the capital of Germany.",
        "(B)\n\nBerlin is the capital of Germany. (C) is not right.",
    ],
)
def test_adverbs_other_options_and_explanations_do_not_hide_the_choice(response: str) -> None:
    assert score(response) == 1.0
    assert score(response, "C") == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "B. Paris is in France.\nC. Berlin is in Germany.\nHard to say.",
        "B\n\nWait, Berlin is one too.",
        "B: Berlin is it. I am sure.",
    ],
)
def test_a_line_that_begins_with_a_letter_is_no_choice_where_the_rest_says_another(response: str) -> None:
    assert score(response) == 0.0


def test_an_option_may_itself_be_a_denial() -> None:
    prompt = "Is it red?\nA. It is red\nB. It is not red\nC. Nobody knows"

    assert score("It is not red.", "B", prompt) == 1.0
    assert score("It is not red.", "A", prompt) == 0.0


def test_without_listed_options_the_letters_of_the_recipe_count() -> None:
    assert score("The answer is E.", "E", prompt="") == 1.0
    with pytest.raises(ValueError, match="the gold answer 'F' is none of A, B, C, D, E and no option's text"):
        score("F", "F", prompt="")


def test_letters_must_be_different_capitals() -> None:
    with pytest.raises(RecipeError, match="letters must be different capitals such as ABCD, got 'abc'"):
        build_rewards({"r": Reward(kind="choice", options={"letters": "abc"})})
