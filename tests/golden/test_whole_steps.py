"""What changes advantages over a whole step equals its authors' numbers: shaping, RiskPO, and corrections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores
from llmrl.experience.correction import Bypass, Correction, Masked, NoCorrection, Truncated
from llmrl.experience.risk import Released
from llmrl.objectives.empg import EMPG, EntropyModulation
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.riskpo import RiskPO
from llmrl.objectives.shaping import KL, Whiten, to_go
from llmrl.policy.reduce import reduce_loss
from llmrl.testing.update import totals_of


def read(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "vectors" / f"{name}.json").read_text())


def batch_of(inputs: dict[str, Any]) -> Batch:
    """The columns that a vector has, 0 outside the mask as collate promises."""
    mask = torch.tensor(inputs["mask"]).bool()
    zeros = torch.zeros(mask.shape, dtype=torch.float64)

    def column(name: str) -> Tensor:
        return torch.tensor(inputs[name], dtype=torch.float64).where(mask, 0.0) if name in inputs else zeros

    return Batch(
        mask=mask,
        advantage=torch.tensor(inputs.get("advantages", [0.0] * len(mask)), dtype=torch.float64)[:, None]
        * mask,
        reward=zeros[:, 0],
        group=torch.zeros(len(mask), dtype=torch.int64),
        # Where nobody spoke, the vectors have turn -1.
        turn=torch.tensor(inputs["turn_ids"]).clamp(min=0) if "turn_ids" in inputs else zeros.long(),
        pairs=torch.zeros(0, 2, dtype=torch.int64),
        opponent=torch.zeros(len(mask), dtype=torch.bool),
        sampled=TokenScores(logp=column("rollout_logprobs")),
        old=TokenScores(logp=column("old_logprobs"), entropy=column("old_entropies")),
        reference=TokenScores(logp=column("ref_logprobs")),
    )


def close(found: Any, expected: Any) -> None:
    found, expected = (torch.as_tensor(one, dtype=torch.float64) for one in (found, expected))
    torch.testing.assert_close(found, expected, atol=5e-9, rtol=1e-9)


def check_loss(made: GRPO, batch: Batch, vector: dict[str, Any]) -> None:
    current = torch.tensor(vector["inputs"]["logprobs"], dtype=torch.float64).where(batch.mask, 0.0)
    current.requires_grad_()
    loss = made(TokenScores(logp=current), batch)
    share = reduce_loss(loss.value, batch.mask, totals_of(batch, budget=16), made.mean_over)
    (gradient,) = torch.autograd.grad(share, current)

    close(share.item(), vector["outputs"]["loss"])
    close(gradient, vector["outputs"]["grad_logprobs"])


@pytest.mark.parametrize("name", ["empg_k1_z01", "empg_k1_z005", "empg_scaling_only"])
def test_empg_equals_the_shared_vectors(shared: Path, name: str) -> None:
    vector = read(shared, f"core/{name}")
    config, batch = vector["config"], batch_of(vector["inputs"])

    made = EntropyModulation(k=config["k"], k_next=config["k_f"], zeta=config["zeta"])(batch)

    close(made, vector["outputs"]["advantages"])
    check_loss(EMPG(), replace(batch, advantage=made), vector)


@pytest.mark.parametrize(
    "name", ["released_dapomath", "released_math", "released_risky", "tracked_uniform", "mix_score"]
)
def test_riskpo_equals_the_shared_vectors(shared: Path, name: str) -> None:
    vector = read(shared, f"core/riskpo_{name}")
    config, inputs, wanted = vector["config"], vector["inputs"], vector["outputs"]
    credit = Released(
        alpha=config["q_down_lvl"],
        beta=config["q_up_lvl"],
        quantiles=config["mode"] if "qd" in config else "batch",
        lower_weight=config["w_mix"] if config["mixing"] else 0.0,
        upper_weight=config["w_mix"] if config.get("seeking") else 0.0,
        baseline=config["natural"],
        scale="std" if config["norm_std"] else "none",
        share=config["credit"].replace("-", "_"),
    )
    # Two questions with three responses each, in one bundle.
    rewards = np.array(inputs["rewards"]).reshape(2, 3)

    low, high = credit.between(rewards.sum(0), np.array([config.get("qd", 0.0), config.get("qu", 0.0)]))
    advantages = credit.worth(rewards, low, high).flatten()

    close([low, high], [wanted["q_down"], wanted["q_up"]])
    close(advantages, wanted["advantages"])
    batch = batch_of(inputs | {"advantages": advantages.tolist()})
    check_loss(RiskPO(), batch, vector)


def test_the_papers_loss_of_riskpo_is_clipped_by_the_geometric_mean_of_a_response(shared: Path) -> None:
    vector = read(shared, "core/gspo")
    config = vector["config"]
    paper = RiskPO(
        clip_low=config["clip_low"], clip_high=config["clip_high"], dual_clip=1e9, ratio="response",
        mean_over="responses",
    )  # fmt: skip

    check_loss(paper, batch_of(vector["inputs"]), vector)


CORRECTIONS: list[tuple[str, Correction, dict[str, Any]]] = [
    ("tis_token_cap2", Truncated(cap=2.0), {"clip_high": 0.28}),
    ("tis_sequence_cap2", Truncated(cap=2.0, level="response"), {"clip_high": 0.28}),
    ("mis_token_05_2", Masked(low=0.5, high=2.0), {"clip_high": 0.28}),
    ("mis_sequence_cap3", Masked(low=0.0, high=3.0, level="response"), {"clip_high": 0.28}),
    ("mis_geometric", Masked(low=0.9, high=1.2, level="mean"), {"clip_high": 0.28}),
    ("icepop_05_5", Masked(low=0.5, high=5.0), {"clip_high": 0.28}),
    ("decoupled_ppo_mask5", Masked(low=0.0, high=5.0), {}),
    ("decoupled_ppo_mask2", Masked(low=0.0, high=2.0), {}),
    ("decoupled_ppo_clamp5", Truncated(cap=5.0), {"dual_clip": 3.0}),
    ("bypass_mode", Bypass(), {}),
]


@pytest.mark.parametrize(
    ("name", "correction", "options"), CORRECTIONS, ids=[one for one, _, _ in CORRECTIONS]
)
def test_corrections_equal_the_shared_vectors(
    shared: Path, name: str, correction: Correction, options: dict[str, Any]
) -> None:
    vector = read(shared, f"more/{name}")
    batch = batch_of(vector["inputs"])
    anchor = batch.sampled if correction.anchor == "sampled" else batch.old

    weight = correction(batch.old.logp - batch.sampled.logp, batch.mask)

    if "weights" in vector["outputs"]:
        close(weight * batch.mask, vector["outputs"]["weights"])
    # The denominator counts the tokens that a mask leaves out; a loss that does not is another number.
    weighted = replace(batch, advantage=batch.advantage * weight, old=anchor)
    check_loss(GRPO(mean_over="tokens", **options), weighted, vector)


def test_dapo_with_the_truncated_correction_equals_the_shared_vector(shared: Path) -> None:
    vector = read(shared, "core/dapo_tis_cap2")
    batch = batch_of(vector["inputs"])
    weight = Truncated(cap=2.0)(batch.old.logp - batch.sampled.logp, batch.mask)

    made = GRPO(clip_high=0.28, dual_clip=vector["config"]["clip_ratio_c"], mean_over="tokens")

    check_loss(made, replace(batch, advantage=batch.advantage * weight), vector)


def test_no_correction_is_the_plain_loss(shared: Path) -> None:
    vector = read(shared, "core/dapo_cliphigher")
    batch = batch_of(vector["inputs"])
    weight = NoCorrection()(batch.old.logp - batch.sampled.logp, batch.mask)

    check_loss(
        GRPO(clip_high=0.28, mean_over="tokens"), replace(batch, advantage=batch.advantage * weight), vector
    )


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_pp_g09"])
def test_returns_and_their_whitening_equal_reinforce_pp(shared: Path, name: str) -> None:
    vector = read(shared, f"more/{name}")
    batch = batch_of(vector["inputs"])
    rewards = torch.tensor(vector["inputs"]["token_rewards"], dtype=torch.float64).where(batch.mask, 0.0)

    returns = to_go(rewards, batch.mask, vector["config"]["gamma"])

    close(returns * batch.mask, vector["outputs"]["returns"])
    close(Whiten()(replace(batch, advantage=returns)), vector["outputs"]["advantages"])


def test_whitened_group_credit_equals_reinforce_pp_with_its_baseline(shared: Path) -> None:
    vector = read(shared, "more/reinforce_pp_baseline")
    batch = batch_of(vector["inputs"])
    rewards = torch.tensor(vector["inputs"]["rewards"], dtype=torch.float64).view(2, 3)
    credit = (rewards - rewards.mean(1, keepdim=True)).flatten()[:, None] * batch.mask

    close(Whiten()(replace(batch, advantage=credit)), vector["outputs"]["advantages"])


def test_a_token_pays_for_the_nats_that_follow_it(shared: Path) -> None:
    vector = read(shared, "more/kl_in_reward")
    batch = batch_of(vector["inputs"])
    reward = torch.tensor(vector["inputs"]["rewards"], dtype=torch.float64)
    batch = replace(batch, advantage=reward[:, None] * batch.mask)
    expected = torch.tensor(vector["outputs"]["token_rewards"], dtype=torch.float64)

    made = KL(weight=vector["config"]["kl_coef"])(batch)

    # The vector has each token's own reward; ours is the sum of it and of all that follow.
    close(made, expected.flip(-1).cumsum(-1).flip(-1).where(batch.mask, 0.0))
