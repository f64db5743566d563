"""pass@k against enumeration, intervals against hand numbers and simulated coverage."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from llmrl.run.statistics import accuracy_interval, mean_pass_at_k, pass_at_k, wilson_interval


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response(n: int) -> None:
    for c in range(n + 1):
        outcomes = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(outcomes, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_by_hand() -> None:
    # 5 of 10 correct, 2 drawn: 1 - (5/10)(4/9)
    assert pass_at_k(10, 5, 2) == pytest.approx(7 / 9)
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("n", "c", "k", "says"),
    [
        (4, 5, 1, "between 0 and n = 4, got 5"),
        (4, 1, 5, "between 1 and the 4 responses of a prompt, got 5"),
        (4, 1, 0, "got 0"),
    ],
)
def test_pass_at_k_refuses_what_has_no_estimate(n: int, c: int, k: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pass_at_k(n, c, k)


def test_mean_pass_at_k_weighs_prompts_equally() -> None:
    correct, responses = np.array([0, 2, 4]), np.array([4, 4, 4])

    # pass@2 of 2 in 4 is 1 - 1/6.
    assert mean_pass_at_k(correct, responses, 2) == pytest.approx((0 + 5 / 6 + 1) / 3)


def test_wilson_intervals_as_tables_have_them() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 0 of 0"):
        wilson_interval(0, 0)


def test_one_response_per_prompt_is_wilson_exactly() -> None:
    correct = np.array([1] * 81 + [0] * 182)

    assert accuracy_interval(correct, np.ones_like(correct)) == pytest.approx(wilson_interval(81, 263))


def test_copies_of_a_response_add_no_certainty() -> None:
    correct = np.array([1] * 30 + [0] * 20)

    once = accuracy_interval(correct, np.full(50, 1))

    assert accuracy_interval(8 * correct, np.full(50, 8)) == pytest.approx(once)


def test_even_prompts_count_every_response() -> None:
    # Each of 50 prompts has 4 of 8 right: prompts do not differ, so all 400 responses are worth one each.
    even = accuracy_interval(np.full(50, 4), np.full(50, 8))

    assert even == pytest.approx(wilson_interval(200, 400))


def test_all_correct_counts_prompts_only() -> None:
    assert accuracy_interval(np.full(20, 8), np.full(20, 8)) == pytest.approx(wilson_interval(20, 20))


def test_half_alike_responses_by_hand() -> None:
    correct, responses = np.array([4, 3, 1, 0]), np.full(4, 4)

    # p = 1/2; residuals 2, 1, -1, -2; variance 10/16^2; effective n = (1/4) / (10/256) = 6.4
    assert accuracy_interval(correct, responses) == pytest.approx(wilson_interval(3.2, 6.4))


@pytest.mark.parametrize("mean", [0.5, 0.9])
def test_the_interval_covers_the_truth_as_often_as_it_says(mean: float) -> None:
    rng = np.random.default_rng(11)
    covered, naive, trials = 0, 0, 2000
    for _ in range(trials):
        difficulty = rng.beta(mean * 1.5, (1 - mean) * 1.5, 100)  # prompts differ a lot
        correct = rng.binomial(8, difficulty)
        low, high = accuracy_interval(correct, np.full(100, 8))
        covered += low <= mean <= high
        low, high = wilson_interval(int(correct.sum()), 800)
        naive += low <= mean <= high

    # Counting 800 responses as independent would promise 95 % and keep about 70 %.
    assert 0.93 <= covered / trials <= 0.97
    assert naive / trials < 0.75


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one count per prompt"):
        accuracy_interval(np.array([1, 2]), np.array([4]))
    with pytest.raises(ValueError, match="no more correct responses"):
        mean_pass_at_k(np.array([5]), np.array([4]), 1)
