"""Demonstrations: whose words are imitated, and that they are as new as the step."""

from __future__ import annotations

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt


def drawn(tokens: list[int] | None, turns: list[int] | None = None) -> Draw:
    prompt = Prompt(
        id="p/0",
        tokens=np.array([1, 5], np.int32),
        text="2",
        answer=None,
        source="p",
        demonstration=None if tokens is None else np.array(tokens, np.int32),
        demonstrated_turn=None if turns is None else np.array(turns, np.int32),
    )
    return Draw(ordinal=3, prompt=prompt)


def test_a_response_is_imitated_whole() -> None:
    experience = imitate(demonstrate(drawn([6, 7, 2])))

    (rollout,), (advantage,) = experience.group.rollouts, experience.advantages
    assert rollout.trained.tolist() == [True, True, True]
    assert rollout.turn.tolist() == [0, 0, 0]
    assert (advantage.tolist(), experience.lag) == ([1.0, 1.0, 1.0], 0)


def test_of_a_conversation_only_the_turns_of_the_policy_are() -> None:
    experience = imitate(demonstrate(drawn([6, 2, 13, 15, 7, 2], [0, 0, -1, -1, 1, 1])))

    (rollout,), (advantage,) = experience.group.rollouts, experience.advantages
    assert rollout.trained.tolist() == [True, True, False, False, True, True]
    assert rollout.turn[rollout.trained].tolist() == [0, 0, 1, 1]
    assert advantage.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_a_row_without_a_response_is_named() -> None:
    with pytest.raises(DataError, match=r"^p/0: no response to imitate; map one with prompts\.sources\."):
        demonstrate(drawn(None))
