"""Credit, keep and correction, with numbers that a reader can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmrl.experience.correction import Masked, NoCorrection, Truncated
from llmrl.experience.credit import GroupCredit
from llmrl.experience.keep import KeepAll, KeepVaried
from llmrl.prompts.prompt import Prompt
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def rollout(trained: list[bool]) -> Rollout:
    size = len(trained)
    return Rollout(
        tokens=np.zeros(size, np.int32),
        logp=np.zeros(size, np.float32),
        version=np.zeros(size, np.int32),
        trained=np.array(trained),
        turn=np.zeros(size, np.int32),
        stop="stop",
        text="",
    )


def group(*rows: list[bool]) -> RolloutGroup:
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    return RolloutGroup(ordinal=0, prompt=prompt, rollouts=tuple(rollout(row) for row in rows))


def scored(*rewards: float | None) -> list[Judgement]:
    return [Judgement(status="error" if r is None else "score", reward=r) for r in rewards]


def test_a_group_of_four_worked_by_hand() -> None:
    rows = group([True, True], [True], [True, False, True], [True])

    (advantages,) = GroupCredit(eps=1e-9)([rows], [scored(1, 0, 0, 1)])

    # mean 0.5, unbiased standard deviation sqrt(1/3)
    high = 0.5 / (1 / 3) ** 0.5
    np.testing.assert_allclose(advantages[0], [high, high], rtol=1e-6)
    np.testing.assert_allclose(advantages[1], [-high], rtol=1e-6)
    np.testing.assert_allclose(advantages[2], [-high, 0.0, -high], rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, -1e-6, math.inf, math.nan])
def test_an_eps_that_could_make_no_number_of_equal_rewards_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=rf"^eps must be finite and above 0, got {eps}$"):
        GroupCredit(eps=eps)


def test_without_scale_the_advantage_is_the_distance_to_the_mean() -> None:
    (advantages,) = GroupCredit(scale="none")([group([True], [True])], [scored(3.0, 1.0)])

    assert [float(a[0]) for a in advantages] == [1.0, -1.0]


def test_a_failed_judgement_is_not_a_zero() -> None:
    (advantages,) = GroupCredit(scale="none")([group([True], [True], [True])], [scored(1.0, None, 0.0)])

    assert [float(a[0]) for a in advantages] == [0.5, 0.0, -0.5]


def test_a_lone_response_carries_no_signal() -> None:
    (advantages,) = GroupCredit()([group([True], [True])], [scored(1.0, None)])

    assert [float(a[0]) for a in advantages] == [0.0, 0.0]


def test_equal_rewards_give_exactly_zero() -> None:
    (advantages,) = GroupCredit()([group([True], [True])], [scored(0.3, 0.3)])

    assert [float(a[0]) for a in advantages] == [0.0, 0.0]


def test_keep_says_why_it_drops() -> None:
    rows = group([True], [True])

    assert KeepVaried()(rows, scored(1, 0)) is None
    assert KeepVaried()(rows, scored(1, 1)) == "rewards equal"
    assert KeepVaried()(rows, scored(None, None)) == "nothing judged"
    assert KeepAll()(rows, scored(1, 1)) is None
    assert KeepAll()(rows, scored(None, None)) == "nothing judged"


def test_corrections_of_three_tokens_worked_by_hand() -> None:
    log_ratio = torch.tensor([[0.25, 1.5, 8.0]]).log()

    assert NoCorrection()(log_ratio).tolist() == [[1.0, 1.0, 1.0]]
    torch.testing.assert_close(Truncated(cap=2.0)(log_ratio), torch.tensor([[0.25, 1.5, 2.0]]))
    torch.testing.assert_close(Masked(low=0.5, high=5.0)(log_ratio), torch.tensor([[0.0, 1.5, 0.0]]))


def test_extreme_ratios_stay_finite() -> None:
    extreme = torch.tensor([[-1000.0, 1000.0]])

    for correction in (Truncated(), Masked()):
        assert correction(extreme).isfinite().all()


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cap must be at least 1, got 0\.5"):
        Truncated(cap=0.5)
    with pytest.raises(ValueError, match="either side of 1"):
        Masked(low=2.0, high=5.0)
