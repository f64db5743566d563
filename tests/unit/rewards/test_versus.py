"""Versus: the score of a response against those of its rivals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards import Sample, reward
from llmrl.rewards.kinds.versus import Versus
from llmrl.rewards.reward import Comparing


def sample(response: str, *rivals: str) -> Sample:
    return Sample(prompt="1+1=", response=response, answer="2", tokens=1, finished=True, rivals=rivals)


def test_a_win_is_1_a_draw_a_half_and_a_defeat_0() -> None:
    versus = Versus(kind="number", options={"marker": "#"})

    assert versus(sample("#2", "#3")).value == 1
    assert versus(sample("#3", "#2")).value == 0
    assert versus(sample("#2", "#2")).value == 0.5
    assert versus(sample("#2", "#2", "#3", "#4", "#5")).value == (0.5 + 1 + 1 + 1) / 4


def test_with_a_scale_it_is_the_bradley_terry_probability() -> None:
    versus = Versus(kind="number", options={"marker": "#"}, scale=2.0)

    assert versus(sample("#2", "#3")).value == pytest.approx(0.8807970779778823)  # 1 / (1 + e^-2)
    assert versus(sample("#3", "#2")).value == pytest.approx(1 - 0.8807970779778823)


def test_without_rivals_it_abstains() -> None:
    assert Versus(kind="number")(sample("2")).value is None


def test_it_is_among_the_rewards_that_get_rivals_and_checks_its_inner_reward() -> None:
    built = reward.build("versus", {"kind": "number"}, key="rewards.better")

    assert isinstance(built, Comparing)
    with pytest.raises(RecipeError, match=r"^rewards\.better\.options\.kind: no reward named 'nmuber'\."):
        reward.build("versus", {"kind": "nmuber"}, key="rewards.better")
    misspelt = {"kind": "number", "options": {"markr": "#"}}
    with pytest.raises(RecipeError, match=r"^rewards\.better\.options\.options: no key named 'markr'\."):
        reward.build("versus", misspelt, key="rewards.better")
    with pytest.raises(RecipeError, match=r"rewards\.better\.options.*scale must be finite and above 0"):
        reward.build("versus", {"kind": "number", "scale": -1.0}, key="rewards.better")


def test_an_awaited_reward_cannot_be_inside() -> None:
    options = {"kind": "remote", "options": {"url": "http://127.0.0.1:1/score"}}

    with pytest.raises(RecipeError, match="kind must be a reward that is not awaited, got 'remote'"):
        reward.build("versus", options, key="rewards.better")


@pytest.mark.parametrize("kind", ["finished", "length", "outcome", "overlong"])
def test_a_reward_of_something_else_than_the_text_cannot_be_inside(kind: str) -> None:
    with pytest.raises(RecipeError, match=f"kind must be a reward of the text.*got '{kind}'"):
        reward.build("versus", {"kind": kind}, key="rewards.better")


def test_a_rival_is_not_cut_off_where_the_response_is() -> None:
    # The last number of a response that was cut off is none; the rival's is its answer.
    cut = replace(sample("It may be 2", "It is 2"), finished=False)

    assert Versus(kind="number")(cut).value == 0
    assert Versus(kind="number")(replace(cut, finished=True)).value == 0.5
