"""RiskPO's bundles: which responses make a paper, and what the tracked quantiles remember."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llmrl.errors import RecipeError
from llmrl.experience.bundles import bundles_of, moved
from llmrl.experience.credit import Memory, credit
from llmrl.experience.risk import Paper, Released

REWARDS = ([1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0])


def test_a_paper_is_the_responses_of_one_number_to_the_questions_of_a_bundle(steps: Any) -> None:
    groups, judged = steps.lone_tokens(*REWARDS)

    first, last = bundles_of(groups, judged, questions=2, order="arrival")

    assert (first.groups.tolist(), last.groups.tolist()) == ([0, 1], [2])
    assert first.rewards.sum(0).tolist() == [1.0, 0.0, 2.0]
    assert last.rewards.tolist() == [[1.0, 1.0, 0.0]]


def test_a_paper_with_a_response_missing_is_left_out(steps: Any) -> None:
    rewards = [1.0, None, 0.0, 1.0], [0.0, 1.0, None, None], [None, None, None, None]
    groups, judged = steps.lone_tokens(*rewards)

    (bundle,) = bundles_of(groups, judged, questions=5, order="arrival")

    # The question without any judged response is in no bundle; the others have two judged ones each.
    assert bundle.groups.tolist() == [0, 1]
    assert bundle.rollouts.tolist() == [[0, 2], [0, 1]]
    assert bundle.rewards.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    made = steps.credited(Released(), *rewards)
    assert [made[g][r] for g, r in ((0, 1), (0, 3), (1, 2), (1, 3), (2, 0))] == [0.0] * 5


def test_what_the_opponent_wrote_is_on_no_paper(steps: Any) -> None:
    group = steps.group([1], [1], [1], opponents=1)

    (bundle,) = bundles_of([group], [steps.judged(1.0, 0.0, 1.0)], questions=5, order="arrival")

    assert bundle.rollouts.tolist() == [[0, 1]]


@pytest.mark.parametrize("order", ["arrival", "shuffled"])
@pytest.mark.parametrize("quantiles", ["batch", "track", "mix"])
def test_the_order_of_the_groups_changes_nothing(steps: Any, order: Any, quantiles: Any) -> None:
    groups, judged = steps.lone_tokens(*REWARDS, [None, 0.0, 1.0], [0.5, 0.25, 0.0])
    estimator = Released(questions=2, order=order, quantiles=quantiles, share="score")
    turned = [3, 0, 4, 2, 1]

    plain_memory: Memory = {}
    turned_memory: Memory = {}
    plain = estimator(groups, judged, plain_memory)
    other = estimator([groups[n] for n in turned], [judged[n] for n in turned], turned_memory)

    assert turned_memory == plain_memory
    for place, number in enumerate(turned):
        assert [a.tolist() for a in other[place]] == [a.tolist() for a in plain[number]]


def test_a_shuffle_is_drawn_from_the_prompts_and_from_nothing_else(steps: Any) -> None:
    groups, judged = steps.lone_tokens(*([1.0, 0.0, 0.5, 0.25] for _ in range(12)))
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    one = bundles_of(groups, judged, questions=5, order="shuffled")
    np.random.seed(2)  # noqa: NPY002
    other = bundles_of(groups, judged, questions=5, order="shuffled")

    assert [b.groups.tolist() for b in one] == [b.groups.tolist() for b in other]
    assert [b.rollouts.tolist() for b in one] == [b.rollouts.tolist() for b in other]
    assert sorted(g for b in one for g in b.groups) == list(range(12))
    assert [g for b in one for g in b.groups] != list(range(12))
    assert len({tuple(row) for b in one for row in b.rollouts.tolist()}) > 1


def test_tracked_quantiles_begin_at_the_first_steps_and_are_moved_after_they_are_read(steps: Any) -> None:
    estimator = Paper(quantiles="track", questions=1, rate=0.1)
    memory: Memory = {}

    steps.credited(estimator, [0.0, 1.0, 2.0, 2.0, 3.0, 5.0], memory=memory)
    assert memory["quantiles"] == [1.0, 3.0]
    ((_, best),) = steps.credited(estimator, [0.0, 9.0], memory=memory)

    # Half of the two scores lie below either quantile; 9 lies above the 3 that was tracked before.
    np.testing.assert_allclose(memory["quantiles"], [1.0 + 0.1 * (0.2 - 0.5), 3.0 + 0.1 * (0.8 - 0.5)])
    assert best == 0.0
    assert json.loads(json.dumps(memory)) == memory


def test_a_mixture_is_the_mean_of_the_tracked_and_the_bundles_own_quantiles() -> None:
    estimator = Released(quantiles="mix", alpha=0.25, beta=0.75)

    # Of the scores 0 .. 4 they are 1 and 3.
    assert estimator.between(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([2.0, 9.0])) == (1.5, 6.0)


def test_a_quantile_stands_still_where_its_share_of_scores_lies_below() -> None:
    levels = np.array([0.25, 0.75])

    assert moved(levels, np.array([0.0, 0.3, 0.5, 1.0]), levels, rate=0.5).tolist() == [0.25, 0.75]


def test_papers_worked_by_hand() -> None:
    scores = np.array([0.0, 1.0, 2.0, 4.0])
    plain = Released(alpha=0.2, beta=0.7, lower_weight=0.0)
    seeking = Released(alpha=0.2, beta=0.7, lower_weight=0.0, upper_weight=1.0)

    # The middle from 1 to 3, over beta - alpha = 1/2; a tail's share is averaged in by its weight.
    np.testing.assert_allclose(plain.of_papers(scores, 1.0, 3.0), [0, 0, 2, 4], atol=2e-5)
    np.testing.assert_allclose(
        Released(alpha=0.2, beta=0.7, lower_weight=1.0).of_papers(scores, 1.0, 3.0),
        [-5 / 2, 0, 1, 2],
        atol=2e-5,
    )
    np.testing.assert_allclose(seeking.of_papers(scores, 1.0, 3.0), [0, 0, 1, (4 + 1 / 0.3) / 2], atol=2e-5)
    np.testing.assert_allclose(
        Released(alpha=0.2, beta=0.7, lower_weight=0.0, baseline=True).of_papers(scores, 1.0, 3.0),
        [-4, -4, -2, 0],
        atol=2e-5,
    )


def test_a_bundle_whose_scores_do_not_differ_is_not_blown_up() -> None:
    rewards = np.zeros((2, 4))

    worth = Released(quantiles="track").worth(rewards, 0.5, 1.5)

    # Each paper lacks 0.5 of the lower quantile: 1.5 * -0.5 / 0.2 / 2.5, in equal parts to two questions.
    np.testing.assert_allclose(worth, np.full((2, 4), -0.75), atol=1e-4)


def test_a_step_in_which_nothing_could_be_judged_is_left_alone(steps: Any) -> None:
    memory: Memory = {}

    assert steps.credited(Released(), [None, None], memory=memory) == [[0.0, 0.0]]
    assert memory == {}


def test_one_response_to_each_question_can_be_compared_over_steps(steps: Any) -> None:
    memory: Memory = {"quantiles": [0.5, 1.5]}

    made = steps.credited(Released(quantiles="track", share="uniform"), [1.0], [1.0], memory=memory)

    # Score 2, clipped to 1.5, less 0.5: 1 / 0.6 / 2.5. One paper has no deviation to be divided by.
    np.testing.assert_allclose(made, [[1 / 0.6 / 2.5]] * 2, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("riskpo", {"questions": 0}, "questions must be at least 1, got 0"),
        ("riskpo", {"alpha": 0.8}, r"alpha and beta must be 0 < alpha < beta < 1, got 0\.8 and 0\.8"),
        ("riskpo", {"rate": 0.0}, r"rate must lie in \(0, 1\], got 0\.0"),
        ("riskpo", {"lower_weight": -1.0}, r"lower_weight must be finite and not negative, got -1\.0"),
        ("riskpo", {"upper_weight": float("inf")}, "upper_weight must be finite and not negative, got inf"),
        ("riskpo_paper", {"omega": -0.5}, r"omega must be finite and not negative, got -0\.5"),
        ("riskpo_paper", {"beta": 0.1}, r"got 0\.2 and 0\.1"),
        ("riskpo_paper", {"share": "std"}, r"credit\.options: no key named 'share'"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        credit.build(name, options, key="credit")
