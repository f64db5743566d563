"""Credit, with numbers that a reader can check: from rewards to advantages, group by group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.errors import RecipeError, RewardError
from llmrl.experience.credit import (
    Credit,
    GroupCredit,
    LeaveOneOut,
    LengthBaseline,
    MaxRL,
    Memory,
    Parts,
    RewardCredit,
    credit,
)

COMPARING = [
    GroupCredit(),
    GroupCredit(scale="batch"),
    GroupCredit(scale="none"),
    LeaveOneOut(),
    MaxRL(),
    LengthBaseline(),
    Parts(weights={"answer": 1.0}),
]


def test_a_group_of_four_worked_by_hand(steps: Any) -> None:
    group = steps.group([1, 1], [1], [1, 0, 1], [1])

    (advantages,) = GroupCredit(eps=1e-9)([group], [steps.judged(1, 0, 0, 1)], {})

    # mean 0.5, unbiased standard deviation sqrt(1/3)
    high = 0.5 / (1 / 3) ** 0.5
    np.testing.assert_allclose(advantages[0], [high, high], rtol=1e-6)
    np.testing.assert_allclose(advantages[1], [-high], rtol=1e-6)
    np.testing.assert_allclose(advantages[2], [-high, 0.0, -high], rtol=1e-6)


def test_without_scale_the_advantage_is_the_distance_to_the_mean(steps: Any) -> None:
    made = steps.credited(GroupCredit(scale="none"), [3.0, 1.0])

    assert made == [[1.0, -1.0]]


def test_the_scale_of_the_batch_is_the_deviation_of_all_its_rewards(steps: Any) -> None:
    made = steps.credited(GroupCredit(scale="batch", eps=1e-9), [0.0, 2.0], [4.0, 6.0])

    # The rewards 0, 2, 4, 6 have variance 20/3.
    unit = 1 / math.sqrt(20 / 3)
    np.testing.assert_allclose(made, [[-unit, unit], [-unit, unit]], rtol=1e-6)


def test_a_lone_response_carries_no_signal_unless_its_reward_is_asked_for(steps: Any) -> None:
    passing = GroupCredit(lone="reward", eps=1.0)

    assert steps.credited(GroupCredit(), [2.0, None]) == [[0.0, 0.0]]
    assert steps.credited(LeaveOneOut(), [2.0, None]) == [[0.0, 0.0]]
    assert steps.credited(passing, [2.0, None]) == [[1.0, 0.0]]
    assert steps.credited(replace(passing, scale="none"), [2.0, None]) == [[2.0, 0.0]]


def test_a_lone_reward_passes_whatever_the_deviation_of_the_batch_is(steps: Any) -> None:
    passing = GroupCredit(scale="batch", lone="reward", eps=1.0)

    # The others are divided by the deviation of 2, 5 and 8, which is 3, and eps; equal rewards have none.
    assert steps.credited(passing, [2.0], [5.0, 8.0]) == [[1.0], [-0.375, 0.375]]
    assert steps.credited(passing, [2.0], [2.0, None]) == [[1.0], [1.0, 0.0]]


@pytest.mark.parametrize("estimator", COMPARING[:-2], ids=repr)
def test_equal_rewards_give_exactly_zero(steps: Any, estimator: Credit) -> None:
    assert steps.credited(estimator, [0.3, 0.3]) == [[0.0, 0.0]]


def test_leave_one_out_compares_with_the_others(steps: Any) -> None:
    made = steps.credited(LeaveOneOut(), [1.0, 0.0, 0.0, None])

    assert made == [[1.0, -0.5, -0.5, 0.0]]


def test_the_reward_comes_with_the_last_trained_token_and_is_discounted_before_it(steps: Any) -> None:
    group = steps.group([1, 0, 1, 1], [1])

    ((first, second),) = RewardCredit(discount=0.5)([group], [steps.judged(8.0, -3.0)], {})

    assert first.tolist() == [2.0, 0.0, 4.0, 8.0]
    assert second.tolist() == [-3.0]


def test_maxrl_counts_rare_success_more(steps: Any) -> None:
    rare, frequent = steps.credited(MaxRL(eps=1e-12), [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0])

    np.testing.assert_allclose(rare, [3, -1, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(frequent, [1 / 3, 1 / 3, -1, 1 / 3], rtol=1e-6)


def test_maxrl_refuses_rewards_whose_mean_measures_no_success(steps: Any) -> None:
    with pytest.raises(RewardError, match=r"no reward below 0 may enter; got -1\.0"):
        steps.credited(MaxRL(), [1.0, -1.0])


def test_the_baseline_of_opo_weighs_long_responses_more(steps: Any) -> None:
    group = steps.group([1, 1, 1], [1, 0], [1, 1])

    (advantages,) = LengthBaseline()([group], [steps.judged(1.0, 0.0, None)], {})

    # Three trained tokens with reward 1 and one with reward 0: the baseline is 3/4.
    assert [one[0] for one in advantages] == [0.25, -0.75, 0.0]


def test_each_part_is_compared_by_itself(steps: Any) -> None:
    groups, _ = steps.lone_tokens([0.0, 0.0])
    judged = steps.judged(5.0, 5.0, answer=[1.0, 0.0], form=[0.0, 100.0])

    ((one, other),) = Parts(weights={"answer": 2.0, "form": 1.0}, eps=1e-9)(groups, [judged], {})

    # Of two values, each lies half of the root of 2 deviations from their mean: twice that, less that.
    np.testing.assert_allclose([one[0], other[0]], [0.5**0.5, -(0.5**0.5)], rtol=1e-6)


def test_a_part_that_nobody_has_named_is_an_error_with_the_names(steps: Any) -> None:
    groups, _ = steps.lone_tokens([0.0])
    with pytest.raises(
        RewardError, match=r"credit\.options\.weights: no reward named 'anser'\. Did you mean"
    ):
        Parts(weights={"anser": 1.0})(groups, [steps.judged(1.0, answer=[1.0])], {})


@pytest.mark.parametrize("estimator", COMPARING, ids=repr)
@settings(deadline=None, max_examples=50)  # on shared cores a case may take any time
@given(
    rewards=st.lists(
        st.lists(st.sampled_from([None, 0.0, 0.25, 1.0]), min_size=1, max_size=5), min_size=1, max_size=4
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_groups_and_responses_changes_nothing(
    steps: Any, estimator: Credit, rewards: list[list[float | None]], order: Any
) -> None:
    places = order.sample(range(len(rewards)), len(rewards))
    within = [order.sample(range(len(group)), len(group)) for group in rewards]

    def made(step: list[list[float | None]]) -> list[list[float]]:
        groups, _ = steps.lone_tokens(*step)
        judged = [
            steps.judged(*group, answer=[0.0 if one is None else one for one in group]) for group in step
        ]
        return [[float(one[0]) for one in group] for group in estimator(groups, judged, {})]

    plain = made(rewards)
    turned = made([[rewards[place][n] for n in within[place]] for place in places])

    for position, place in enumerate(places):
        np.testing.assert_allclose(turned[position], [plain[place][n] for n in within[place]], atol=1e-6)


@pytest.mark.parametrize("estimator", [*COMPARING, RewardCredit()], ids=repr)
def test_a_response_that_could_not_be_judged_takes_no_part(steps: Any, estimator: Credit) -> None:
    without = estimator([steps.group([1], [1, 1])], [steps.judged(1.0, 0.25, answer=[1.0, 0.25])], {})
    groups = [steps.group([1], [1, 1, 1], [1, 1])]

    ((first, failed, second),) = estimator(
        groups, [steps.judged(1.0, None, 0.25, answer=[1.0, 9.0, 0.25])], {}
    )

    assert failed.tolist() == [0.0, 0.0, 0.0]
    assert [first.tolist(), second.tolist()] == [one.tolist() for one in without[0]]


@pytest.mark.parametrize("estimator", [*COMPARING, RewardCredit()], ids=repr)
def test_what_the_opponent_wrote_is_no_baseline_and_earns_nothing(steps: Any, estimator: Credit) -> None:
    alone = estimator([steps.group([1], [1])], [steps.judged(1.0, 0.0, answer=[1.0, 0.0])], {})
    against = steps.group([1], [1], [1], opponents=1)

    ((*own, opponent),) = estimator([against], [steps.judged(1.0, 0.0, 0.5, answer=[1.0, 0.0, 0.5])], {})

    assert opponent.tolist() == [0.0]
    assert [one.tolist() for one in own] == [one.tolist() for one in alone[0]]


def test_what_does_not_compare_remembers_nothing(steps: Any) -> None:
    memory: Memory = {}
    for estimator in COMPARING:
        groups, _ = steps.lone_tokens([1.0, 0.0])
        estimator(groups, [steps.judged(1.0, 0.0, answer=[1.0, 0.0])], memory)

    assert memory == {}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("group", {"eps": 0.0}, r"eps must be finite and above 0, got 0\.0"),
        ("group", {"eps": math.inf}, r"eps must be finite and above 0, got inf"),
        ("group", {"scale": "std"}, r"credit\.options\.scale"),
        ("reward", {"discount": 0.0}, r"discount must lie in \(0, 1\], got 0\.0"),
        ("maxrl", {"eps": -1.0}, r"eps must be finite and above 0, got -1\.0"),
        ("parts", {}, r"credit\.options\.weights: this key is missing; credit 'parts' needs it"),
        ("parts", {"weights": {}}, r"weights must name rewards and be finite, got {}"),
        ("parts", {"weights": {"answer": 1.0}, "eps": 0.0}, r"eps must be finite and above 0, got 0\.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        credit.build(name, options, key="credit")
