"""Rewards for text, form and length: exact, regex, capture, format, finished, overlong, length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Sample, build_rewards
from llmrl.rewards.kinds.format import Finished, Format
from llmrl.rewards.kinds.length import Length, Overlong
from llmrl.rewards.kinds.match import Capture, Exact, Regex

VECTOR = Path(__file__).parents[4] / "shared" / "vectors" / "core" / "dapo_overlong.json"


def sample(
    response: str = "", answer: str | None = None, *, tokens: int = 1, finished: bool = True
) -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=tokens, finished=finished)


def test_exact_ignores_space_around_and_nothing_else_by_default() -> None:
    assert Exact()(sample(" Blue\n", "Blue")) == 1.0
    assert Exact()(sample("blue", "Blue")) == 0.0
    assert Exact(ignore_case=True)(sample("blue", "Blue")) == 1.0
    assert Exact(strip=False)(sample("Blue ", "Blue")) == 0.0


def test_regex_asks_only_that_the_pattern_occurs() -> None:
    assert Regex(pattern="(?i)yes")(sample("Oh YES!")) == 1.0
    assert Regex(pattern="^yes")(sample("Oh yes")) == 0.0


def test_capture_compares_what_the_group_caught_last() -> None:
    reward = Capture(pattern=r"Answer: (?P<word>\w+)", group="word")

    assert reward(sample("Answer: red. Answer: blue.", "blue")).value == 1.0
    assert reward(sample("Answer: blue. Answer: red.", "blue")).value == 0.0
    assert reward(sample("blue", "blue")).note == "caught nothing"


def test_capture_accepts_any_text_as_gold_but_not_its_absence() -> None:
    bare = Capture(pattern=r"Answer: (\w+)").bare()

    assert bare(sample("blue", "blue")) == 1.0
    with pytest.raises(ValueError, match="the row has no gold answer"):
        bare(sample("", None))


def test_format_must_match_the_whole_response_over_lines() -> None:
    reward = Format(pattern="<think>.*</think><answer>.*</answer>")

    assert reward(sample("<think>\n1+1\n</think><answer>2</answer>")) == 1.0
    assert reward(sample("<think>\n1+1\n</think><answer>2</answer> ok")) == 0.0


def test_finished_pays_a_response_that_ended_itself() -> None:
    assert [Finished()(sample(finished=finished)) for finished in (True, False)] == [1.0, 0.0]


def test_overlong_is_equation_13_of_dapo() -> None:
    if not VECTOR.exists():
        pytest.skip(f"{VECTOR} is not there: the shared vectors of the project are not mounted")
    vector = json.loads(VECTOR.read_text(encoding="utf-8"))
    config, lengths = vector["config"], vector["inputs"]["lengths"]
    reward = Overlong(max_tokens=config["L_max"], buffer_tokens=config["L_cache"])

    assert [reward(sample(tokens=tokens)) for tokens in lengths] == vector["outputs"]["paper"]


def test_overlong_takes_the_budget_of_the_response_and_a_fifth_of_it_as_slope() -> None:
    def of(reward: Overlong, tokens: int, budget: int) -> float:
        return reward(replace(sample(tokens=tokens), max_tokens=budget))

    assert [of(Overlong(), tokens, 20480) for tokens in (16384, 18432, 20480)] == [0.0, -0.5, -1.0]
    assert [of(Overlong(buffer_tokens=10), tokens, 100) for tokens in (90, 95, 100)] == [0.0, -0.5, -1.0]
    assert [of(Overlong(max_tokens=50), tokens, 100) for tokens in (40, 45, 50, 100)] == [
        0.0,
        -0.5,
        -1.0,
        -1.0,
    ]
    assert [of(Overlong(), tokens, 3) for tokens in (2, 3)] == [0.0, -1.0]
    with pytest.raises(ValueError, match=r"buffer_tokens must lie in 1 \.\. max_tokens = 5, got 9"):
        of(Overlong(buffer_tokens=9), 1, 5)


def test_length_falls_from_1_to_0_over_the_budget() -> None:
    reward = Length(max_tokens=100, free_tokens=20)

    assert [reward(sample(tokens=tokens)) for tokens in (0, 20, 40, 60, 100, 500)] == [
        1.0,
        1.0,
        0.75,
        0.5,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("numbr", {}, r"rewards\.r\.kind: no reward named 'numbr'\. Did you mean 'number'\?"),
        ("number", {"markr": "#"}, r"rewards\.r\.options: no key named 'markr'\. Did you mean 'marker'\?"),
        ("number", {"marker": " "}, r"rewards\.r\.options: marker must not be empty"),
        ("regex", {"pattern": "("}, r"rewards\.r\.options: pattern is not a regular expression"),
        ("format", {"pattern": "["}, r"rewards\.r\.options: pattern is not a regular expression"),
        ("capture", {"pattern": "(a)", "group": 2}, r"rewards\.r\.options: group must be one of 0, 1, got 2"),
        (
            "overlong",
            {"max_tokens": 5, "buffer_tokens": 6},
            r"buffer_tokens must lie in 1 \.\. max_tokens = 5, got 6",
        ),
        ("overlong", {"buffer_tokens": 0}, "buffer_tokens must be at least 1, got 0"),
        (
            "length",
            {"max_tokens": 5, "free_tokens": 5},
            r"free_tokens must lie in 0 \.\. max_tokens - 1 = 4, got 5",
        ),
    ],
)
def test_a_wrong_reward_is_refused_with_its_key(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_rewards({"r": Reward(kind=kind, options=options)})
