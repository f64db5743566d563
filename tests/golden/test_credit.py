"""Credit equals its authors' numbers: advantages of the shared vectors, by the plugins that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.experience.bundles import moved
from llmrl.experience.credit import (
    Credit,
    GroupCredit,
    LeaveOneOut,
    LengthBaseline,
    MaxRL,
    RewardCredit,
)
from llmrl.experience.risk import Paper
from llmrl.prompts.prompt import Prompt
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def read(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "vectors" / f"{name}.json").read_text())


def rollout(mask: list[float]) -> Rollout:
    trained = np.array(mask, dtype=bool)
    nothing = np.zeros(trained.size, np.int32)
    return Rollout(
        tokens=nothing,
        logp=nothing.astype(np.float32),
        version=nothing,
        trained=trained,
        turn=nothing,
        stop="stop",
        text="",
    )


def advantages_of(estimator: Credit, inputs: dict[str, Any]) -> np.ndarray:
    """[B] what the first trained token of each row gets; the vectors have group ids in ascending order."""
    rewards, ids = inputs["rewards"], inputs["group_ids"]
    masks = inputs.get("mask", [[1.0]] * len(rewards))
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    rows = [[n for n, one in enumerate(ids) if one == group] for group in sorted(set(ids))]
    groups = [
        RolloutGroup(ordinal=n, prompt=prompt, rollouts=tuple(rollout(masks[row]) for row in group))
        for n, group in enumerate(rows)
    ]
    judged = [[Judgement(status="score", reward=rewards[row]) for row in group] for group in rows]
    made = estimator(groups, judged, {})
    return np.array([one[0] for group in made for one in group])


GRPO_KINDS = {
    "adv_std_verl_eps1e-6": GroupCredit(eps=1e-6),
    "adv_std_trl_eps1e-4": GroupCredit(eps=1e-4),
    "adv_std_oat_eps1e-8": GroupCredit(eps=1e-8),
    "adv_nostd": GroupCredit(scale="none"),
    "adv_batch_std_trl": GroupCredit(scale="batch", eps=1e-4),
    "rloo": LeaveOneOut(),
}


@pytest.mark.parametrize("name", ["adv_grpo_binary", "adv_grpo_real"])
@pytest.mark.parametrize("kind", GRPO_KINDS)
def test_group_advantages_equal_the_shared_vectors(shared: Path, name: str, kind: str) -> None:
    vector = read(shared, f"core/{name}")

    made = advantages_of(GRPO_KINDS[kind], vector["inputs"])

    np.testing.assert_allclose(made, vector["outputs"][kind], rtol=1e-6)


def test_a_group_of_one_passes_its_reward_through_where_verl_does(shared: Path) -> None:
    vector = read(shared, "core/adv_grpo_degenerate")
    scaled, plain = GroupCredit(lone="reward"), GroupCredit(lone="reward", scale="none")

    np.testing.assert_allclose(
        advantages_of(scaled, vector["inputs"]), vector["outputs"]["adv_std"], rtol=1e-6
    )
    np.testing.assert_allclose(
        advantages_of(plain, vector["inputs"]), vector["outputs"]["adv_nostd"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("rloo_advantage", LeaveOneOut()), ("opo_advantage", LengthBaseline()), ("maxrl_advantage", MaxRL())],
)
def test_other_baselines_equal_the_shared_vectors(shared: Path, name: str, estimator: Credit) -> None:
    vector = read(shared, f"more/{name}")

    made = advantages_of(estimator, vector["inputs"])

    np.testing.assert_allclose(made, vector["outputs"]["advantages_row"], rtol=1e-6)


def test_the_reward_alone_is_the_return_of_a_response(shared: Path) -> None:
    inputs = read(shared, "more/kl_in_reward")["inputs"]
    ids = list(range(len(inputs["rewards"])))

    made = advantages_of(RewardCredit(), inputs | {"group_ids": ids})

    assert made.tolist() == inputs["rewards"]


def test_the_paper_s_advantage_of_bundles_equals_the_shared_vector(shared: Path) -> None:
    vector = read(shared, "core/riskpo_paper_advantage")
    config = vector["config"]
    estimator = Paper(alpha=config["alpha"], beta=config["beta"], omega=config["omega"])

    made = estimator.of_papers(
        np.array(vector["inputs"]["bundle_scores"]), config["Q_alpha"], config["Q_beta"]
    )

    np.testing.assert_allclose(made, vector["outputs"]["advantages"], atol=5e-9, rtol=1e-9)


def test_quantiles_are_tracked_as_in_the_shared_vector(shared: Path) -> None:
    vector = read(shared, "core/riskpo_quantile_tracking")
    levels = np.array(vector["inputs"]["alphas"])
    first, second = (np.array(vector["inputs"][f"{name}_batch"]) for name in ("first", "second"))

    begun = np.quantile(first, levels).astype(np.float64)
    after = moved(begun, second, levels, rate=vector["config"]["lr_q"])

    np.testing.assert_allclose(begun, vector["outputs"]["q_after_first"], atol=5e-9, rtol=1e-9)
    np.testing.assert_allclose(after, vector["outputs"]["q_after_second"], atol=5e-9, rtol=1e-9)
