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


def test_without_listed_options_the_letters_of_the_recipe_count() -> None:
    assert score("The answer is E.", "E", prompt="") == 1.0
    with pytest.raises(ValueError, match="the gold answer 'F' is none of A, B, C, D, E and no option's text"):
        score("F", "F", prompt="")


def test_letters_must_be_different_capitals() -> None:
    with pytest.raises(RecipeError, match="letters must be different capitals such as ABCD, got 'abc'"):
        build_rewards({"r": Reward(kind="choice", options={"letters": "abc"})})
