"""What is compared with what, and what a preference is worth, with numbers that a reader can check."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.experience.offline import contrast, demonstrate, imitate
from llmrl.experience.pairing import AgainstOpponent, Extremes, InOrder, NoPairs
from llmrl.experience.preference import PreferenceCredit
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup

PROMPT = Prompt(
    id="p/0",
    tokens=np.array([1, 5], np.int32),
    text="",
    answer=None,
    source="p",
    demonstration=np.array([7, 8, 2], np.int32),
    rejected=np.array([9, 2], np.int32),
)


def group_of(size: int, *, opponents: int = 0) -> RolloutGroup:
    recorded = demonstrate(Draw(ordinal=0, prompt=PROMPT)).rollouts[0]
    rollouts = [dataclasses.replace(recorded, opponent=n >= size - opponents) for n in range(size)]
    return RolloutGroup(ordinal=0, prompt=PROMPT, rollouts=tuple(rollouts))


def scored(*rewards: float | None) -> list[Judgement]:
    return [Judgement(status="abstain" if r is None else "score", reward=r) for r in rewards]


def test_a_pair_of_the_dataset_is_a_group_of_two_whose_first_is_preferred() -> None:
    group = contrast(Draw(ordinal=4, prompt=PROMPT))
    experience = imitate(group)

    assert [one.tokens.tolist() for one in group.rollouts] == [[7, 8, 2], [9, 2]]
    assert all(one.trained.all() for one in group.rollouts)
    assert (group.ordinal, experience.pairs, experience.lag) == (4, ((0, 1),), 0)


def test_a_demonstration_has_no_pair() -> None:
    assert imitate(demonstrate(Draw(ordinal=0, prompt=PROMPT))).pairs == ()


@pytest.mark.parametrize("missing", ["response", "rejected"])
def test_a_row_without_a_pair_is_refused(missing: str) -> None:
    column: dict[str, Any] = {"demonstration" if missing == "response" else missing: None}
    prompt = dataclasses.replace(PROMPT, **column)

    with pytest.raises(DataError) as refused:
        contrast(Draw(ordinal=0, prompt=prompt))

    assert str(refused.value) == (
        "p/0: no pair of a chosen and a rejected response; "
        f"map the column of the missing one with prompts.sources.fields.{missing}."
    )


def test_without_pairing_nothing_is_compared() -> None:
    assert NoPairs()(group_of(2), scored(1, 0)) is None


@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [((0.2, 0.9, None, 0.1), ((1, 3),)), ((0.5, 0.5), ()), ((None, None), ()), ((None, 1.0), ())],
)
def test_the_best_is_compared_with_the_worst(rewards: tuple[float | None, ...], pairs: Any) -> None:
    assert Extremes()(group_of(len(rewards)), scored(*rewards)) == pairs


@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [
        ((0.1, 0.9, 0.5, 0.5), ((1, 0), (2, 3))),
        ((0.1, None, 0.5, 0.4), ((2, 3),)),
        ((0.1, 0.2, 0.3), ((1, 0),)),
    ],
)
def test_neighbours_are_compared_in_order(rewards: tuple[float | None, ...], pairs: Any) -> None:
    assert InOrder()(group_of(len(rewards)), scored(*rewards)) == pairs


@pytest.mark.parametrize(
    ("opponents", "rewards", "pairs"),
    [
        (1, (0.9, 0.1, 0.5), ((0, 2), (2, 1))),  # two responses of the policy, then one of the opponent
        (2, (0.9, 0.1, 0.5, 0.0), ((0, 2), (1, 3))),
        (1, (0.5, 0.1, 0.5), ((2, 1),)),  # the first is as good as the opponent's
        (1, (0.9, 0.1, None), ()),
        (0, (0.9, 0.1), ()),
    ],
)
def test_each_response_is_compared_with_one_of_the_opponents(
    opponents: int, rewards: tuple[float | None, ...], pairs: Any
) -> None:
    assert AgainstOpponent()(group_of(len(rewards), opponents=opponents), scored(*rewards)) == pairs


@pytest.mark.parametrize("pairs", [Extremes(), InOrder()])
def test_pairs_that_say_so_connect_no_more_than_two(pairs: Extremes | InOrder) -> None:
    rewards = np.random.default_rng(0).random(7)

    made = pairs(group_of(7), scored(*rewards))

    assert pairs.together == 2
    assert max(Counter(number for pair in made for number in pair).values()) == 1


@pytest.mark.parametrize("pairs", [Extremes(), InOrder(), AgainstOpponent()])
@pytest.mark.parametrize(("own", "opponents"), [(1, 1), (2, 0), (5, 1), (5, 2), (1, 3), (8, 0)])
def test_pairs_hold_as_many_responses_as_they_say_where_all_rewards_differ(
    pairs: Extremes | InOrder | AgainstOpponent, own: int, opponents: int
) -> None:
    size = own + opponents
    made = pairs(group_of(size, opponents=opponents), scored(*np.random.default_rng(0).random(size)))

    assert pairs.paired(own, opponents) == len({number for pair in made for number in pair})


def test_an_opponents_only_response_connects_all_of_the_policys() -> None:
    made = AgainstOpponent()(group_of(5, opponents=1), scored(0.1, 0.2, 0.8, 0.9, 0.5))

    assert AgainstOpponent().together is None
    assert {number for pair in made for number in pair} == {0, 1, 2, 3, 4}


def test_a_preference_is_worth_what_it_exceeds_one_half() -> None:
    group = group_of(4, opponents=1)
    masked = dataclasses.replace(group.rollouts[0], trained=np.array([True, False, True]))
    group = dataclasses.replace(group, rollouts=(masked, *group.rollouts[1:]))

    (advantages,) = PreferenceCredit()([group], [scored(0.75, 0.25, None, 1.0)], {})

    expected = [[0.25, 0.0, 0.25], [-0.25] * 3, [0.0] * 3, [0.0] * 3]
    assert [one.tolist() for one in advantages] == expected
    assert all(one.dtype == np.float32 for one in advantages)


def test_the_other_sides_words_are_not_the_policys() -> None:
    prompt = dataclasses.replace(PROMPT, demonstrated_turn=np.array([0, -1, 1], np.int32))

    rollout: Rollout = demonstrate(Draw(ordinal=0, prompt=prompt)).rollouts[0]

    assert rollout.trained.tolist() == [True, False, True]
