"""The preference losses equal their authors' numbers: shared vectors in float64, and pairs worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores, Totals
from llmrl.objectives import Objective, objective
from llmrl.objectives.dpo import DPO, IPO, RobustDPO
from llmrl.objectives.nash import NashMD
from llmrl.objectives.pairs import log_sigmoid
from llmrl.policy.reduce import reduce_loss


def batch_of(mask: torch.Tensor, **columns: Any) -> Batch:
    rows = mask.shape[0]
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    given: dict[str, Any] = {
        "mask": mask,
        "advantage": zeros,
        "reward": zeros[:, 0],
        "group": torch.zeros(rows, dtype=torch.int64),
        "turn": torch.zeros(mask.shape, dtype=torch.int64),
        "pairs": torch.zeros(0, 2, dtype=torch.int64),
        "opponent": torch.zeros(rows, dtype=torch.bool),
        "sampled": TokenScores(logp=zeros),
        "old": TokenScores(logp=zeros),
    }
    return Batch(**given | columns)


def read(shared: Path, vector: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    content = json.loads((shared / "vectors" / f"{vector}.json").read_text())
    given = {key: torch.tensor(value, dtype=torch.float64) for key, value in content["inputs"].items()}
    if "turn_mask" in given:
        given["mask"] = given.pop("turn_mask")
    mask = given["mask"].bool()
    # What collate promises: every column is exactly 0 outside the mask.
    columns = {key: given[key].where(mask, 0.0) for key in given if key.endswith("logprobs")}
    return given | columns | {"mask": mask}, content["outputs"]


def pairs_of(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rows by pair id; the chosen one first where the vector says which, else the first row."""
    ids = given["pair_ids"]
    first = given.get("is_chosen", torch.zeros(len(ids)))
    order = torch.argsort(-first, stable=True)
    return torch.stack([order[ids[order] == pair] for pair in ids.unique()])


def check(made: Objective, given: dict[str, torch.Tensor], batch: Batch, wanted: dict[str, Any]) -> None:
    current = given["logprobs"].clone().requires_grad_()
    totals = Totals(
        tokens=int(batch.mask.sum()), responses=batch.mask.shape[0], pairs=max(1, len(batch.pairs))
    )
    loss = made(TokenScores(logp=current), batch)
    share = reduce_loss(loss.value, batch.mask, totals, made.mean_over)
    (gradient,) = torch.autograd.grad(share, current)

    expected = torch.tensor(wanted["grad_logprobs"], dtype=torch.float64)
    torch.testing.assert_close(share.item(), wanted["loss"], atol=5e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, expected, atol=5e-9, rtol=1e-9)
    assert (gradient[~batch.mask] == 0).all()


@pytest.mark.parametrize(
    ("vector", "name", "options"),
    [
        ("core/dpo_sigmoid", "dpo", {}),
        ("core/dpo_sigmoid", "online_dpo", {}),
        ("core/dpo_sigmoid_norm", "dpo", {"beta": 5.0, "score": "mean"}),
        ("core/dpo_cdpo_eps01", "cdpo", {"flipped": 0.1}),
        ("core/rdpo_eps01", "rdpo", {"flipped": 0.1}),
        ("core/rdpo_eps03", "rdpo", {"flipped": 0.3, "beta": 0.5}),
        ("core/ipo_sum", "ipo", {}),
        ("core/ipo_sum", "online_ipo", {}),
        ("core/ipo_avg", "ipo", {"score": "mean"}),
        ("core/dpo_hinge", "hinge", {}),
    ],
)
def test_losses_of_the_margin_equal_the_shared_vectors(
    shared: Path, vector: str, name: str, options: dict[str, Any]
) -> None:
    given, wanted = read(shared, vector)
    reference = TokenScores(logp=given["ref_logprobs"])

    check(
        objective.build(name, options, key="objective"),
        given,
        batch_of(given["mask"], pairs=pairs_of(given), reference=reference),
        wanted,
    )


@pytest.mark.parametrize(
    ("vector", "name", "options"),
    [
        ("core/refuel_eta1", "refuel", {}),
        ("core/refuel_eta1e3", "refuel", {"eta": 1000.0}),
        ("core/refuel_setting_two_kl", "refuel", {"kl_weight": 0.05}),
        ("more/rebel_eta1", "rebel", {}),
        ("more/rebel_eta1e6", "rebel", {"eta": 1e6}),
    ],
)
def test_regressions_of_rewards_equal_the_shared_vectors(
    shared: Path, vector: str, name: str, options: dict[str, Any]
) -> None:
    given, wanted = read(shared, vector)
    made = objective.build(name, options, key="objective")
    reference = TokenScores(logp=given["ref_logprobs"]) if "reference" in made.reads else None
    batch = batch_of(
        given["mask"],
        pairs=pairs_of(given),
        old=TokenScores(logp=given["old_logprobs"]),
        reward=given["scores"] if "scores" in given else given["rewards"],
        reference=reference,
    )

    check(made, given, batch, wanted)


@pytest.mark.parametrize(
    ("vector", "kl"),
    [
        ("nash_md_paper_reward_to_go", "reward_to_go"),
        ("nash_md_sequence", "sequence"),
        ("nash_md_trl_token", "token"),
    ],
)
def test_nash_md_equals_the_shared_vectors(shared: Path, vector: str, kl: str) -> None:
    given, wanted = read(shared, f"core/{vector}")
    advantage = (given["preference_prob"][:, None] - 0.5) * given["mask"]
    batch = batch_of(given["mask"], advantage=advantage, reference=TokenScores(logp=given["ref_logprobs"]))

    made = objective.build("nash_md", {"kl": kl, "kl_weight": 0.1}, key="objective")
    check(made, given, batch, wanted)


def test_xpo_equals_the_shared_vector(shared: Path) -> None:
    given, wanted = read(shared, "core/xpo")
    # Rows 0 to 2 are the policy's, 3 to 5 the reference's on the same prompts.
    won = given["model_is_chosen"].bool().tolist()
    pairs = torch.tensor([(i, i + 3) if first else (i + 3, i) for i, first in enumerate(won)])
    batch = batch_of(
        given["mask"],
        pairs=pairs,
        opponent=torch.arange(6) >= 3,
        reference=TokenScores(logp=given["ref_logprobs"]),
    )

    check(objective.build("xpo", {"optimism": 0.01}, key="objective"), given, batch, wanted)


def exact_gradients(shared: Path, kl: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of KL(policy || reference) and what Nash-MD expects it to be, over all 27 sequences."""
    content = json.loads((shared / "vectors" / "core" / "nash_md_kl_exactness.json").read_text())
    theta = torch.tensor(content["inputs"]["theta"], dtype=torch.float64).requires_grad_()
    log_mu = torch.tensor(content["inputs"]["log_mu"], dtype=torch.float64)
    steps = torch.cartesian_prod(*[torch.arange(3)] * 3)
    policy, reference = _tokens(theta.log_softmax(-1), steps), _tokens(log_mu, steps)
    probability = policy.sum(-1).exp()

    exact = torch.autograd.grad((probability * (policy - reference).sum(-1)).sum(), theta, retain_graph=True)
    batch = batch_of(torch.ones(27, 3, dtype=torch.bool), reference=TokenScores(logp=reference))
    loss = NashMD(kl=kl, kl_weight=1.0)(TokenScores(logp=policy), batch)  # type: ignore[arg-type]
    estimate = torch.autograd.grad((probability.detach()[:, None] * loss.value).sum(), theta)
    return exact[0], estimate[0]


def _tokens(log_p: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """[27, 3] logprobs of each symbol, from one row for each history: none, 3 of one symbol, 9 of two."""
    first, second, _ = steps.unbind(-1)
    history = torch.stack([torch.zeros_like(first), 1 + first, 4 + 3 * first + second], dim=-1)
    return log_p[history, steps]


@pytest.mark.parametrize("kl", ["reward_to_go", "sequence"])
def test_the_kl_of_nash_md_is_exact_on_average(shared: Path, kl: str) -> None:
    exact, estimate = exact_gradients(shared, kl)

    torch.testing.assert_close(estimate, exact, atol=1e-14, rtol=0.0)


def test_the_kl_by_token_points_elsewhere(shared: Path) -> None:
    exact, estimate = exact_gradients(shared, "token")

    cosine = torch.nn.functional.cosine_similarity(exact.flatten(), estimate.flatten(), dim=0)
    assert cosine.item() == pytest.approx(0.47275541021113876, abs=1e-12)


def test_a_pair_worked_by_hand() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    current = TokenScores(logp=torch.tensor([[-1.0, -1.0], [-2.0, 0.0]]))
    reference = TokenScores(logp=torch.tensor([[-2.0, -2.0], [-1.0, 0.0]]))
    batch = batch_of(mask, pairs=torch.tensor([[0, 1]]), reference=reference)

    out = DPO(beta=0.5)(current, batch)

    # The preferred response gained 2 nats and the other lost 1: a margin of 3 nats, worth 1.5.
    assert out.value.tolist() == pytest.approx([math.log1p(math.exp(-1.5))])
    assert out.metrics["preferred_log_ratio"].value.tolist() == [2.0]
    assert out.metrics["other_log_ratio"].value.tolist() == [-1.0]
    assert out.metrics["pair_accuracy"].value.tolist() == [1.0]
    assert IPO(beta=0.5)(current, batch).value.tolist() == [4.0]


def test_the_gradient_at_the_reference_itself_is_half_of_beta() -> None:
    logp = torch.zeros(2, 1, requires_grad=True)
    mask, reference = torch.ones(2, 1, dtype=torch.bool), TokenScores(logp=logp.detach())
    batch = batch_of(mask, pairs=torch.tensor([[0, 1]]), reference=reference)

    DPO(beta=0.1)(TokenScores(logp=logp), batch).value.sum().backward()

    torch.testing.assert_close(logp.grad, torch.tensor([[-0.05], [0.05]]))


def test_the_loss_that_undoes_flips_is_that_of_the_true_labels_on_average() -> None:
    margin = torch.tensor([-2.0, 0.3, 5.0], dtype=torch.float64)
    robust, plain = RobustDPO(flipped=0.3), DPO()

    on_average = 0.7 * robust.of_margin(margin) + 0.3 * robust.of_margin(-margin)

    torch.testing.assert_close(on_average, plain.of_margin(margin))


def test_log_sigmoid_is_finite_with_its_gradient_however_large_the_margin() -> None:
    x = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], requires_grad=True)

    value = log_sigmoid(x)
    value.sum().backward()

    assert value.tolist() == pytest.approx([-1e30, -1e4, -math.log(2), 0.0, 0.0])
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_micro_batch_without_pairs_adds_nothing() -> None:
    logp = torch.zeros(1, 3, requires_grad=True)
    batch = batch_of(torch.zeros(1, 3, dtype=torch.bool), reference=TokenScores(logp=logp.detach()))
    loss = DPO()(TokenScores(logp=logp), batch)

    share = reduce_loss(loss.value, batch.mask, Totals(tokens=9, responses=4, pairs=2), "pairs")
    share.backward()

    assert share.item() == 0.0
    assert logp.grad is not None
    assert logp.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_only_what_is_weighed_against_the_reference_reads_it() -> None:
    reads = {
        name: set(objective.build(name, options, key="objective").reads)
        for name, options in [("dpo", {}), ("refuel", {}), ("nash_md", {"kl_weight": 0.0}), ("nash_ema", {})]
    }

    assert reads == {"dpo": {"reference"}, "refuel": {"old"}, "nash_md": set(), "nash_ema": {"reference"}}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dpo", {"beta": 0.0}, "beta must be finite and above 0, got 0.0"),
        ("rdpo", {"flipped": 0.5}, r"flipped must lie in \[0, 0.5\), got 0.5"),
        ("cdpo", {"beta": -1.0}, "beta must be finite and above 0, got -1.0"),
        ("refuel", {"eta": 0.0}, "eta must be finite and above 0, got 0.0"),
        ("rebel", {"kl_weight": -0.1}, "kl_weight must be finite and not negative, got -0.1"),
        ("nash_md", {"kl_weight": -0.1}, "kl_weight must be finite and not negative, got -0.1"),
        ("xpo", {"optimism": -0.1}, "optimism must be finite and not negative, got -0.1"),
        ("dpo", {"mean_over": "tokens"}, "no key named 'mean_over'"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        objective.build(name, options, key="objective")


def test_the_kl_by_token_claims_to_estimate_nothing() -> None:
    worth = NashMD(kl_weight=0.5).worth(torch.tensor([1.0]), torch.tensor([0.4]))

    assert worth is not None
    assert worth.tolist() == pytest.approx([0.8])
    assert NashMD(kl="token").worth(torch.ones(1), torch.ones(1)) is None
