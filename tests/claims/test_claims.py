"""The claims: their recipes are sound, their arithmetic is right, and the docs say what the kept runs say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.prompts.prompt import Prompt
from llmrl.recipe.checks import check_recipe
from llmrl.report.journal import EvaluationEntry, Journal, StepEntry
from llmrl.rewards import Sample
from recipes.claims.by_turn import right_turns
from recipes.claims.claim import TESTING, TUNING, Claim
from recipes.claims.kept import FOLDER, PAGE, on_page, read_results
from recipes.claims.listed import CLAIMS
from recipes.claims.measures import entropy_at_reward, silent_groups
from recipes.claims.picture import picture
from recipes.claims.rock_paper_scissors import (
    PREFERENCE,
    SHARES,
    Preferred,
    bradley_terry,
    nash,
    nash_near_start,
)
from recipes.claims.run import Result, stage_of
from recipes.claims.verdict import difference

ARMS = [(claim, arm) for claim in CLAIMS.values() for arm in claim.arms]


def result(arm: str, seed: int, value: float) -> Result:
    return Result(
        arm=arm,
        seed=seed,
        overrides=(),
        seconds=1.0,
        numbers={"accuracy": value},
        along=[0, 1],
        up=[0, value],
    )


def said(response: str, *rivals: str) -> float:
    sample = Sample(prompt="1=", response=response, answer=None, tokens=1, finished=True, rivals=rivals)
    return Preferred()(sample)


@pytest.mark.parametrize(("claim", "arm"), ARMS, ids=[f"{claim.name}-{arm}" for claim, arm in ARMS])
def test_every_arm_is_a_recipe_that_passes_every_check(claim: Claim, arm: str) -> None:
    check_recipe(stage_of(claim, 0, seed=0, name="warm", overrides=()))
    check_recipe(stage_of(claim, 1, seed=0, name=arm, overrides=claim.arms[arm]))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_the_docs_say_what_the_kept_runs_say(claim: Claim) -> None:
    results = read_results(claim)

    assert {(one.arm, one.seed) for one in results} == {(arm, s) for arm in claim.arms for s in TESTING}
    page = PAGE.read_text(encoding="utf-8")
    assert on_page(claim, results, page) == page
    assert picture(claim, results) == (FOLDER / f"{claim.name}.svg").read_text(encoding="ascii")


def test_no_seed_is_both_tuned_and_tested_on() -> None:
    assert not set(TUNING) & set(TESTING)


def test_a_difference_is_paired_by_seed_and_its_interval_is_students() -> None:
    claim = replace(CLAIMS["flipped"], verdict="accuracy", better="more")
    dpo = [result("dpo", seed, value) for seed, value in enumerate([0.1, 0.5, 0.9])]
    rdpo = [result("rdpo", seed, value) for seed, value in enumerate([0.2, 0.7, 0.8])]

    one = difference(claim, [*rdpo, *reversed(dpo)], "rdpo")

    # Differences 0.1, 0.2, -0.1: mean 1/15, deviation 0.15275, t(2) = 4.3027.
    assert one.mean == pytest.approx(0.2 / 3)
    assert one.high - one.mean == pytest.approx(4.3027 * 0.152753 / 3**0.5, rel=1e-5)
    assert one.mean - one.low == pytest.approx(one.high - one.mean)
    assert (one.better, one.seeds, one.certain) == (2, 3, False)


def test_less_is_better_where_a_claim_says_so() -> None:
    claim = replace(CLAIMS["flipped"], verdict="accuracy", better="less")
    results = [result("dpo", s, 0.5) for s in range(2)] + [result("rdpo", s, 0.4 + s / 100) for s in range(2)]

    assert difference(claim, results, "rdpo").better == 2


def test_a_seed_without_the_number_in_both_arms_takes_no_part() -> None:
    claim = replace(CLAIMS["flipped"], verdict="accuracy", better="more")
    values = [0.5, 0.6, float("nan")]
    dpo = [result("dpo", seed, 0.5) for seed in range(3)]

    one = difference(claim, [*dpo, *(result("rdpo", s, value) for s, value in enumerate(values))], "rdpo")

    assert (one.mean, one.seeds) == (pytest.approx(0.05), 2)


def test_one_seed_has_no_interval() -> None:
    claim = replace(CLAIMS["flipped"], verdict="accuracy")

    with pytest.raises(ValueError, match=r"^flipped: expected 2 to 10 seeds, got 1$"):
        difference(claim, [result("dpo", 0, 0.5), result("rdpo", 0, 0.6)], "rdpo")


def test_no_throw_is_preferred_to_the_nash_policy() -> None:
    np.testing.assert_allclose(nash(), [2 / 9, 4 / 9, 3 / 9])
    np.testing.assert_allclose(PREFERENCE @ nash(), 0.5)
    np.testing.assert_allclose(PREFERENCE + PREFERENCE.T, 1)


def test_near_the_start_no_throw_pays_more_than_it_costs() -> None:
    policy = nash_near_start(0.05)

    worth = PREFERENCE @ policy - 0.05 * np.log(policy / SHARES)

    np.testing.assert_allclose(worth, worth[0], atol=1e-9)


def test_bradley_terry_puts_rock_first_and_matches_the_wins_it_was_fitted_to() -> None:
    scores = np.array([bradley_terry()[throw] for throw in "rps"])

    predicted = 1 / (1 + np.exp(scores[None] - scores[:, None]))

    assert scores.argmax() == 0
    # Where the likelihood is greatest, expected and actual wins of every throw are equal.
    weight = np.outer(SHARES, SHARES)
    np.testing.assert_allclose((weight * predicted).sum(1), (weight * PREFERENCE).sum(1), atol=1e-12)


def test_a_throw_is_worth_its_mean_preference_over_the_rivals_and_nothing_else_beats_a_throw() -> None:
    assert said("r", "s", "p") == pytest.approx((0.9 + 0.2) / 2)
    assert (said("r", "7"), said("", "r"), said("", "7")) == (1.0, 0.0, 0.5)


def test_entropy_is_read_where_the_reward_reaches_a_level(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in range(1, 61):
            numbers = {"reward/part/answer": 0.02 * step, "policy/entropy": 1 - 0.01 * step}
            journal.step(StepEntry(stage="x", step=step, version=step, seconds=1.0, metrics=numbers))

    numbers = entropy_at_reward(tmp_path).numbers

    # Both are straight lines, which a running mean leaves as they are: levels at steps 25 and 27.5.
    assert numbers["entropy at 0.55"] == pytest.approx(0.725)
    assert numbers["entropy at 0.5"] == pytest.approx(0.75)
    assert numbers["entropy at all levels"] == pytest.approx(0.7375)


def test_a_level_that_is_never_reached_has_no_entropy(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in range(1, 21):
            numbers = {"reward/part/answer": 0.28 + 0.01 * step, "policy/entropy": 1.0}
            journal.step(StepEntry(stage="x", step=step, version=step, seconds=1.0, metrics=numbers))

    assert np.isnan(entropy_at_reward(tmp_path).numbers["entropy at 0.5"])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("42\n> +3=\n45\n> +9=\n54\n> +0=\n54", [True, True, True, True]),
        # What is asked adds up whatever was answered, so a slip is not carried over by who reads the user.
        ("42\n> +3=\n46\n> +9=\n54\n> +0=\n55", [True, False, True, False]),
        ("41\n> +3=\n", [False, False, False, False]),
    ],
)
def test_an_answer_is_right_if_it_is_the_sum_of_all_that_was_asked_so_far(
    text: str, right: list[bool]
) -> None:
    prompt = Prompt(id="a", tokens=np.zeros(1, dtype=np.int32), text="37+5=", answer="42", source="a")

    assert right_turns(prompt, text).tolist() == right


def test_groups_whose_rewards_are_equal_are_silent(tmp_path: Path) -> None:
    sample = {
        "prompt_id": "a", "source": "a", "prompt": "1=", "answer": "1", "response": "#1", "tokens": [1],
        "strings": ["1"], "logprobs": [0.0], "versions": [0], "advantages": [0.0], "trained": [True],
        "stop": "stop", "lag": 0, "step": 1,
    }  # fmt: skip
    rewards = [(0, 1.0), (0, 1.0), (1, 0.0), (1, 1.0), (2, 0.0), (2, 0.0), (3, 1.0), (3, 0.0)]
    lines = [
        json.dumps(sample | {"group": group, "index": at, "judgement": {"reward": reward}})
        for at, (group, reward) in enumerate(rewards)
    ]
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-000001.jsonl").write_text("\n".join(lines) + "\n")
    with Journal(tmp_path) as journal:
        numbers = {"groups/trained": 4.0, "groups/dropped": 2.0}
        journal.step(StepEntry(stage="x", step=1, version=1, seconds=1.0, metrics=numbers))
        journal.evaluation(
            EvaluationEntry(
                stage="x", step=1, version=1, name="held-out", correct=1, n=2, accuracy=0.5, low=0.0,
                high=1.0, tokens_mean=1.0,
            )
        )  # fmt: skip

    numbers = silent_groups(tmp_path).numbers

    assert numbers["silent share of trained groups"] == 0.5
    assert numbers["generated groups per useful group"] == 6 / 2
    assert numbers["useful groups per step"] == 2
