"""Policy-gradient objectives equal their authors' numbers: the shared vectors, loss and gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores
from llmrl.objectives import MeanOver, Objective, objective
from llmrl.policy.reduce import reduce_loss
from llmrl.testing.update import totals_of

Columns = dict[str, torch.Tensor]

BUDGET = 16

SYMMETRIC = {"clip_low": 0.2, "clip_high": 0.2}
HIGHER = {"clip_low": 0.2, "clip_high": 0.28}

VECTORS = [
    ("core/grpo_seq_mean_token_mean", "grpo", {"kl_weight": 0.04}),
    ("core/grpo_token_mean", "grpo", {"kl_weight": 0.04, "mean_over": "tokens"}),
    ("core/grpo_seq_mean_token_sum", "grpo", {"kl_weight": 0.04, "mean_over": 1}),
    ("core/grpo_seq_mean_token_sum_norm", "grpo", {"kl_weight": 0.04, "mean_over": 9}),
    ("core/dr_grpo_const16", "dr_grpo", {}),
    ("core/ppo_clip_sym02", "grpo", {"mean_over": "tokens"}),
    ("core/ppo_dualclip_c3", "grpo", {"mean_over": "tokens", "dual_clip": 3.0}),
    ("core/dapo_cliphigher", "dapo", {}),
    ("core/dapo_cliphigher_c10", "dapo", {"dual_clip": 10.0}),
    ("core/dapo_on_policy", "dapo", {}),
    ("core/gspo", "gspo", {}),
    ("core/gppo_c3", "gppo", {"dual_clip": 3.0}),
    ("core/gppo_c10", "gppo", {"dual_clip": 10.0}),
    ("core/gppo_plus_positive_lm", "gppo", {"dual_clip": 10.0, "positive_weight": 0.1}),
    ("core/ce_gppo_b025_b1", "ce_gppo", HIGHER | {"dual_clip": 10.0, "low_weight": 0.25}),
    ("core/ce_gppo_b075_b1", "ce_gppo", {"dual_clip": 10.0}),
    ("core/ce_gppo_b1_b1", "ce_gppo", HIGHER | {"dual_clip": 10.0, "low_weight": 1.0}),
    ("core/ce_gppo_b0_b0", "ce_gppo", HIGHER | {"dual_clip": 10.0, "low_weight": 0.0, "high_weight": 0.0}),
    ("core/erc_dapo_095_105", "erc", {"dual_clip": 10.0}),
    ("core/erc_dapo_08_12", "erc", {"dual_clip": 10.0, "entropy_low": 0.8, "entropy_high": 1.2}),
    ("core/erc_gppo_095_105", "erc", SYMMETRIC | {"base": "gppo", "dual_clip": 10.0}),
    ("core/clip_cov", "clip_cov", {"fraction": 0.1, "cov_low": 0.05}),
    ("core/clip_cov_eps02", "clip_cov", SYMMETRIC | {"fraction": 0.1, "cov_low": 0.05}),
    ("core/kl_cov_10pct_coef1", "kl_cov", {"fraction": 0.1}),
    ("core/kl_cov_10pct_coef01", "kl_cov", {"fraction": 0.1, "weight": 0.1}),
    ("core/kl_cov_min1_coef1", "kl_cov", {}),
    ("more/gspo_3e4_4e4", "gspo", {}),
    ("more/gspo_02_028", "gspo", HIGHER),
    ("more/cispo_absolute_cap", "cispo", {"ratio_cap": 2.0}),
    ("more/cispo_cap5", "cispo", {}),
    ("more/cispo_one_plus_eps", "cispo", {"ratio_cap": 1.28, "ratio_floor": 0.8}),
    ("more/aipo_rho2", "cispo", {"ratio_cap": 2.0}),
    ("more/aipo_rho10", "cispo", {"ratio_cap": 10.0}),
    ("more/safe_ppo_plus_k2", "grpo", {"kl": "k2", "kl_weight": 0.37, "mean_over": "tokens"}),
    ("more/rloo_sequence_ratio", "rloo", {}),
    ("more/mhpo", "mhpo", {}),
    ("more/r2vpo", "r2vpo", {}),
    ("more/r2vpo_lam1", "r2vpo", {"price": 1.0}),
]


def read(shared: Path, name: str) -> tuple[Columns, dict[str, Any]]:
    """The inputs as collate would hand them on, 0 outside the mask; and the outputs."""
    vector = json.loads((shared / "vectors" / f"{name}.json").read_text())
    given = {key: torch.tensor(value, dtype=torch.float64) for key, value in vector["inputs"].items()}
    if name.endswith("on_policy"):  # its source: the old policy is the current one
        given["old_logprobs"] = given["logprobs"].clone()
    mask = given["mask"].bool()
    return {key: one.where(mask, 0.0) if one.ndim == 2 else one for key, one in given.items()}, vector[
        "outputs"
    ]


def batch_of(given: Columns, wanted: dict[str, Any]) -> Batch:
    """A batch of everything that a vector has; of the chosen tokens the noise is 0, of all others 1."""
    mask = given["mask"].bool()
    noise = torch.ones(mask.shape, dtype=torch.float64)
    for row, column in wanted.get("chosen", []):
        noise[row, column] = 0
    advantage = given.get("advantages", torch.tensor(wanted.get("advantages_row", 0.0), dtype=torch.float64))
    reference = given.get("ref_logprobs")
    # AIPO's ratio is to the engine's own scores, as the correction `bypass` makes it.
    old = given.get("old_logprobs", given.get("rollout_logprobs"))
    assert old is not None
    return Batch(
        mask=mask,
        advantage=advantage * mask if advantage.ndim == 2 else advantage[:, None] * mask,
        reward=given.get("rewards", torch.zeros(mask.shape[0], dtype=torch.float64)),
        group=torch.zeros(mask.shape[0], dtype=torch.int64),
        turn=torch.zeros(mask.shape, dtype=torch.int64),
        pairs=torch.zeros(0, 2, dtype=torch.int64),
        opponent=torch.zeros(mask.shape[0], dtype=torch.bool),
        sampled=TokenScores(logp=old),
        old=TokenScores(logp=old, entropy=given.get("old_entropies")),
        reference=None if reference is None else TokenScores(logp=reference),
        noise=noise,
    )


def reduced(
    made: Objective, current: TokenScores, batch: Batch
) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Loss, gradient and the mean of each metric."""
    loss = made(current, batch)
    share = reduce_loss(loss.value, batch.mask, totals_of(batch, budget=BUDGET), made.mean_over)
    (gradient,) = torch.autograd.grad(share, current.logp)
    means = {name: float(one.value[one.where].double().mean()) for name, one in loss.metrics.items()}
    return share.item(), gradient, means


def close(found: Any, expected: Any) -> None:
    found, expected = (torch.as_tensor(one, dtype=torch.float64) for one in (found, expected))
    torch.testing.assert_close(found, expected, atol=5e-9, rtol=1e-9)


@pytest.mark.parametrize(("vector", "name", "options"), VECTORS, ids=[vector for vector, _, _ in VECTORS])
def test_loss_and_gradient_equal_the_shared_vector(
    shared: Path, vector: str, name: str, options: dict[str, Any]
) -> None:
    given, wanted = read(shared, vector)
    made: Objective = objective.build(name, options, key="objective")
    current = TokenScores(logp=given["logprobs"].requires_grad_(), entropy=given.get("entropies"))
    batch = batch_of(given, wanted)

    loss, gradient, _ = reduced(made, current, batch)

    close(loss, wanted["loss"])
    close(gradient, wanted["grad_logprobs"])
    assert (gradient[~batch.mask] == 0).all()


@pytest.mark.parametrize(
    ("vector", "name", "options"),
    [one for one in VECTORS if one[0].startswith("core/")],
    ids=lambda one: str(one),
)
def test_float32_gives_the_same_within_its_precision(
    shared: Path, vector: str, name: str, options: dict[str, Any]
) -> None:
    given, wanted = read(shared, vector)
    given = {key: one.float() for key, one in given.items()}
    made: Objective = objective.build(name, options, key="objective")
    current = TokenScores(logp=given["logprobs"].requires_grad_(), entropy=given.get("entropies"))

    loss, gradient, _ = reduced(made, current, batch_of(given, wanted))

    torch.testing.assert_close(loss, wanted["loss"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient, torch.tensor(wanted["grad_logprobs"]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("vector", "name", "options", "metrics"),
    [
        (
            "core/ppo_dualclip_c3",
            "grpo",
            {"mean_over": "tokens", "dual_clip": 3.0},
            {"clip_fraction": "clipfrac", "dual_clip_fraction": "clipfrac_lower", "kl_old": "ppo_kl"},
        ),
        ("core/dapo_cliphigher", "dapo", {}, {"clip_fraction": "clipfrac", "kl_old": "ppo_kl"}),
        ("core/erc_dapo_095_105", "erc", {"dual_clip": 10.0}, {"entropy_kept_fraction": "entropy_keep_frac"}),
        ("more/r2vpo", "r2vpo", {}, {"ratio_variance": "ratio_variance"}),
    ],
)
def test_metrics_equal_those_of_the_public_code(
    shared: Path, vector: str, name: str, options: dict[str, Any], metrics: dict[str, str]
) -> None:
    given, wanted = read(shared, vector)
    current = TokenScores(logp=given["logprobs"].requires_grad_(), entropy=given.get("entropies"))

    _, _, means = reduced(objective.build(name, options, key="objective"), current, batch_of(given, wanted))

    for ours, theirs in metrics.items():
        torch.testing.assert_close(means[ours], wanted[theirs], atol=5e-9, rtol=1e-7)


@pytest.mark.parametrize("kl", ["k1", "abs", "k2", "k3", "k1+", "k3+", "k3_bias_corrected_trl"])
def test_the_estimators_of_kl_equal_the_shared_vector(shared: Path, kl: str) -> None:
    given, wanted = read(shared, "core/kl_estimators")
    corrected = kl == "k3_bias_corrected_trl"
    options = {
        "kl": "k3" if corrected else kl,
        "kl_weight": 1.0,
        "kl_corrected": corrected,
        "mean_over": "tokens",
    }
    batch = batch_of(given | {"advantages": torch.zeros(given["mask"].shape[0])}, {})
    current = TokenScores(logp=given["logprobs"].requires_grad_())

    loss, gradient, _ = reduced(objective.build("grpo", options, key="objective"), current, batch)

    close(loss, wanted[kl]["loss"])
    close(gradient, wanted[kl]["grad_logprobs"])


@pytest.mark.parametrize(
    ("mode", "mean_over"),
    [("seq-mean-token-mean", "responses"), ("token-mean", "tokens"), ("seq-mean-token-sum", 1)],
)
def test_a_response_without_trained_tokens_is_in_no_denominator(
    shared: Path, mode: str, mean_over: MeanOver
) -> None:
    given, wanted = read(shared, "core/agg_fully_masked_row")
    current = TokenScores(logp=given["logprobs"].requires_grad_())
    made: Objective = objective.build("grpo", {"mean_over": mean_over}, key="objective")

    loss, gradient, _ = reduced(made, current, batch_of(given, wanted))

    close(loss, wanted[f"loss_{mode}"])
    close(gradient, wanted[f"grad_{mode}"])


@pytest.mark.parametrize("vector", ["clip_cov", "clip_cov_eps02"])
def test_clip_cov_draws_from_the_candidates_of_the_public_code(shared: Path, vector: str) -> None:
    given, wanted = read(shared, f"core/{vector}")
    low, high = (1.0, 1.0) if vector == "clip_cov" else (0.2, 0.2)
    options = {"clip_low": low, "clip_high": high, "cov_low": 0.05, "fraction": 1.0}
    made: Objective = objective.build("clip_cov", options, key="objective")

    loss = made(TokenScores(logp=given["logprobs"]), batch_of(given, wanted))

    assert loss.metrics["cov_fraction"].value.tolist() == wanted["candidates"]


@pytest.mark.parametrize("vector", ["kl_cov_10pct_coef1", "kl_cov_min1_coef1"])
def test_kl_cov_charges_the_tokens_of_the_public_code(shared: Path, vector: str) -> None:
    given, wanted = read(shared, f"core/{vector}")
    options = {"fraction": 0.1 if "10pct" in vector else 0.002}
    made: Objective = objective.build("kl_cov", options, key="objective")

    loss = made(TokenScores(logp=given["logprobs"]), batch_of(given, wanted))

    assert loss.metrics["cov_fraction"].value.tolist() == wanted["selected"]


def test_the_sum_of_2025s_verl_is_not_what_dr_grpo_means(shared: Path) -> None:
    given, wanted = read(shared, "core/dr_grpo_verl2025_pitfall")
    current = TokenScores(logp=given["logprobs"].requires_grad_())
    made: Objective = objective.build("dr_grpo", {"mean_over": 9}, key="objective")

    loss, _, _ = reduced(made, current, batch_of(given, wanted))

    assert wanted["loss"] / loss == pytest.approx(given["mask"].shape[0])
