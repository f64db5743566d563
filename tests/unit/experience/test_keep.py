"""Keep: which groups are trained on, and the words for those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import RecipeError, RewardError
from llmrl.experience.keep import KeepAll, KeepVaried, keep


def test_keep_says_why_it_drops(steps: Any) -> None:
    group = steps.group([1], [1])

    assert KeepVaried()(group, steps.judged(1, 0)) is None
    assert KeepVaried()(group, steps.judged(1, 1)) == "rewards equal"
    assert KeepVaried()(group, steps.judged(1, None)) == "rewards equal"
    assert KeepVaried()(group, steps.judged(None, None)) == "nothing judged"
    assert KeepAll()(group, steps.judged(1, 1)) is None
    assert KeepAll()(group, steps.judged(None, None)) == "nothing judged"


def test_a_penalty_for_length_lets_no_group_pass(steps: Any) -> None:
    group = steps.group([1], [1])
    jittered = steps.judged(0.9, 1.0, answer=[1.0, 1.0], overlong=[-0.1, 0.0])
    solved_once = steps.judged(0.9, 0.0, answer=[1.0, 0.0], overlong=[-0.1, 0.0])

    assert KeepVaried()(group, jittered) is None
    assert KeepVaried(by="answer")(group, jittered) == "rewards equal"
    assert KeepVaried(by="first")(group, jittered) == "rewards equal"
    assert KeepVaried(by="first")(group, solved_once) is None
    assert KeepVaried(by="overlong")(group, solved_once) is None


def test_a_reward_called_first_is_meant_by_its_name(steps: Any) -> None:
    judged = steps.judged(1.0, 0.0, answer=[1.0, 0.0], first=[1.0, 1.0])

    assert KeepVaried(by="first")(steps.group([1], [1]), judged) == "rewards equal"


def test_a_reward_that_nobody_has_named_is_an_error_with_the_names(steps: Any) -> None:
    with pytest.raises(
        RewardError, match=r"keep\.options\.by: no reward named 'anser'\. Did you mean 'answer'"
    ):
        KeepVaried(by="anser")(steps.group([1]), steps.judged(1.0, answer=[1.0]))


def test_dynamic_sampling_keeps_the_groups_of_the_shared_vector(steps: Any, shared: Path) -> None:
    vector = json.loads((shared / "vectors" / "core" / "dapo_dynamic_sampling.json").read_text())

    kept = [
        KeepVaried()(steps.group(*([1] for _ in rewards)), steps.judged(*rewards)) is None
        for rewards in vector["inputs"]["group_metrics"]
    ]

    assert kept == vector["outputs"]["kept"]


def test_refills_are_an_option_of_what_refuses_by_the_rewards() -> None:
    assert (KeepAll().refills, KeepAll().when_exhausted) == (10, "stop")
    patient = KeepVaried(refills=3, when_exhausted="train")
    assert (patient.refills, patient.when_exhausted) == (3, "train")
    with pytest.raises(RecipeError, match="refills must be at least 1, got 0"):
        keep.build("varied", {"refills": 0}, key="keep")
