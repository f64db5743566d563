"""Policy-gradient objectives on a few tokens worked by hand, and the options that they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores
from llmrl.batches.corrected import corrected
from llmrl.errors import RecipeError
from llmrl.experience.correction import Truncated
from llmrl.objectives import Loss, Objective, objective
from llmrl.objectives.cov import ClipCov, KLCov
from llmrl.objectives.erc import ERC
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.sft import SFT
from llmrl.policy.reduce import reduce_loss
from llmrl.testing.update import totals_of

Rows = list[list[float]]


def batch_of(advantage: Rows, **columns: Any) -> Batch:
    """On a policy whose ``old`` logps are all 0, every token trained."""
    credit = torch.tensor(advantage)
    rows = credit.shape[0]
    given: dict[str, Any] = {
        "advantage": credit,
        "mask": torch.ones_like(credit, dtype=torch.bool),
        "reward": torch.zeros(rows),
        "group": torch.zeros(rows, dtype=torch.int64),
        "turn": torch.zeros_like(credit, dtype=torch.int64),
        "pairs": torch.zeros(0, 2, dtype=torch.int64),
        "opponent": torch.zeros(rows, dtype=torch.bool),
        "sampled": TokenScores(logp=torch.zeros_like(credit)),
        "old": TokenScores(logp=torch.zeros_like(credit)),
        "noise": torch.zeros_like(credit),
    }
    return Batch(**(given | columns))


def worked(name: str, options: dict[str, Any], ratio: Rows, batch: Batch) -> tuple[Loss, torch.Tensor]:
    """The loss of each token, and the gradient of their plain sum."""
    made: Objective = objective.build(name, options, key="objective")
    logp = torch.tensor(ratio).log().requires_grad_()
    loss = made(TokenScores(logp=logp), batch)
    (gradient,) = torch.autograd.grad(loss.value.where(batch.mask, 0.0).sum(), logp)
    return loss, gradient


RATIO = [[0.5, 1.0, 1.5, 1.5]]
CREDIT = [[1.0, 1.0, 1.0, -1.0]]


def test_a_good_token_earns_its_ratio_up_to_the_bound_and_a_bad_one_is_charged_in_full() -> None:
    loss, gradient = worked("grpo", {}, RATIO, batch_of(CREDIT))

    torch.testing.assert_close(loss.value, torch.tensor([[-0.5, -1.0, -1.2, 1.5]]))
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, -1.0, 0.0, 1.5]]))
    assert loss.metrics["clip_fraction"].value.tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert loss.metrics["clip_high_fraction"].value.tolist() == [[0.0, 0.0, 1.0, 0.0]]
    torch.testing.assert_close(loss.metrics["ratio"].value, torch.tensor(RATIO))
    torch.testing.assert_close(loss.metrics["kl_old"].value, -torch.tensor(RATIO).log())


def test_a_bad_token_that_is_rare_enough_is_left_alone() -> None:
    loss, gradient = worked("grpo", {}, [[0.5, 0.9]], batch_of([[-1.0, -1.0]]))

    torch.testing.assert_close(loss.value, torch.tensor([[0.8, 0.9]]))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.9]]))
    assert loss.metrics["clip_low_fraction"].value.tolist() == [[1.0, 0.0]]


def test_dapo_lets_a_good_token_grow_further() -> None:
    loss, _ = worked("dapo", {}, RATIO, batch_of(CREDIT))

    torch.testing.assert_close(loss.value, torch.tensor([[-0.5, -1.0, -1.28, 1.5]]))


def test_the_dual_clip_bounds_what_a_bad_token_is_charged() -> None:
    loss, gradient = worked("grpo", {"dual_clip": 3.0}, [[4.0, 4.0]], batch_of([[-1.0, 1.0]]))

    torch.testing.assert_close(loss.value, torch.tensor([[3.0, -1.2]]))
    assert gradient.tolist() == [[0.0, 0.0]]
    assert loss.metrics["dual_clip_fraction"].value.tolist() == [[1.0, 0.0]]


def test_gppo_has_the_value_of_ppo_and_the_gradient_of_the_bound() -> None:
    ratio, credit = [[0.5, 0.5, 2.0, 2.0]], [[-1.0, 1.0, 1.0, -1.0]]

    loss, gradient = worked("gppo", {}, ratio, batch_of(credit))

    torch.testing.assert_close(loss.value, torch.tensor([[0.8, -0.5, -1.28, 2.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[0.8, -0.5, -1.28, 2.0]]))


def test_ce_gppo_weighs_what_lies_below_and_what_lies_above() -> None:
    options = {"low_weight": 0.5, "high_weight": 0.25}

    loss, gradient = worked("ce_gppo", options, [[0.5, 2.0, 1.0]], batch_of([[-1.0, 1.0, 1.0]]))

    torch.testing.assert_close(loss.value, torch.tensor([[0.4, -0.3, -1.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[0.4, -0.3, -1.0]]))


def test_correct_responses_get_their_likelihood_averaged_over_all_of_their_tokens() -> None:
    batch = batch_of([[0.0, 0.0], [0.0, 0.0]], reward=torch.tensor([1.0, 0.0]))
    logp = torch.tensor([[-1.0, -3.0], [-5.0, -7.0]])
    made: Objective = objective.build("gppo", {"positive_weight": 0.1}, key="objective")

    loss = made(TokenScores(logp=logp), batch)
    share = reduce_loss(loss.value, batch.mask, totals_of(batch, budget=1), made.mean_over)

    assert made.scope == "step"
    assert share.item() == pytest.approx(0.1 * 2.0)
    nll = loss.metrics["positive_nll"]
    assert nll.value[nll.where].tolist() == [1.0, 3.0]


def test_the_ratio_of_rloo_is_that_of_the_whole_response() -> None:
    batch = batch_of([[1.0, 1.0, 0.0]], mask=torch.tensor([[True, True, False]]))

    loss, gradient = worked("rloo", {}, [[0.8, 1.25, 7.0]], batch)
    clipped, _ = worked("rloo", {}, [[1.25, 1.2, 7.0]], batch)

    torch.testing.assert_close(loss.value[batch.mask], torch.tensor([-1.0, -1.0]))
    # Both tokens carry the response's loss, so the sum of both has twice its gradient.
    torch.testing.assert_close(gradient, torch.tensor([[-2.0, -2.0, 0.0]]))
    torch.testing.assert_close(clipped.value[batch.mask], torch.tensor([-1.2, -1.2]))


def test_where_advantages_differ_each_token_of_rloo_pays_for_itself() -> None:
    batch = batch_of([[0.0, 1.0, -2.0]])

    _, gradient = worked("rloo", {}, [[1.0, 1.0, 1.0]], batch)

    # Of the sum of three tokens, whose mean the step takes.
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -3.0, 6.0]]))


def test_on_policy_rloo_by_token_has_the_gradient_of_rloo_by_response() -> None:
    batch = batch_of([[2.0, 2.0], [-1.0, 0.0]], mask=torch.tensor([[True, True], [True, False]]))
    logp = torch.zeros(2, 2, requires_grad=True)

    gradients: list[torch.Tensor] = []
    for options in ({}, {"ratio": "token", "mean_over": 1}):
        made: Objective = objective.build("rloo", options, key="objective")
        value = made(TokenScores(logp=logp), batch).value
        share = reduce_loss(value, batch.mask, totals_of(batch, budget=1), made.mean_over)
        gradients.append(torch.autograd.grad(share, logp)[0])

    torch.testing.assert_close(gradients[0], torch.tensor([[-1.0, -1.0], [0.5, 0.0]]))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_ratio_of_gspo_is_the_geometric_mean_and_each_token_pays_for_itself() -> None:
    batch = batch_of([[1.0, 1.0, 1.0]])

    loss, gradient = worked("gspo", {"clip_low": 0.2, "clip_high": 0.2}, [[8.0, 0.5, 0.25]], batch)
    clipped, none = worked("gspo", {}, [[8.0, 1.0, 1.0]], batch)

    torch.testing.assert_close(loss.value, -torch.ones(1, 3))
    torch.testing.assert_close(gradient, -torch.ones(1, 3))
    torch.testing.assert_close(clipped.value, -1.0004 * torch.ones(1, 3))
    assert none.tolist() == [[0.0, 0.0, 0.0]]


def test_cispo_caps_the_weight_and_keeps_every_gradient() -> None:
    loss, gradient = worked(
        "cispo", {"ratio_cap": 2.0, "ratio_floor": 0.5}, [[0.1, 1.0, 9.0]], batch_of([[1.0] * 3])
    )

    torch.testing.assert_close(gradient, torch.tensor([[-0.5, -1.0, -2.0]]))
    assert loss.metrics["clip_fraction"].value.tolist() == [[1.0, 0.0, 1.0]]


def test_erc_keeps_the_value_of_a_token_whose_entropy_moved_and_drops_its_gradient() -> None:
    old = TokenScores(logp=torch.zeros(1, 4), entropy=torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    batch = batch_of([[1.0] * 4], old=old)
    logp = torch.zeros(1, 4, requires_grad=True)
    entropy = torch.tensor([[0.9, 1.04, 1.06, 0.0]], requires_grad=True)

    loss = ERC()(TokenScores(logp=logp, entropy=entropy), batch)
    gradients = torch.autograd.grad(loss.value.sum(), [logp, entropy], allow_unused=True)

    torch.testing.assert_close(loss.value, -torch.ones(1, 4))
    torch.testing.assert_close(gradients[0], torch.tensor([[0.0, -1.0, 0.0, -1.0]]))
    assert gradients[1] is None
    assert loss.metrics["entropy_kept_fraction"].value.tolist() == [[0.0, 1.0, 0.0, 1.0]]


# Centred, advantage is -1 and 1 and logp -1.5, -0.5, 0.5, 1.5: covariances 1.5, 0.5, 0.5, 1.5.
COVARYING = [[-1.0, -1.0, 1.0, 1.0]]
LOGP = [[-4.0, -3.0, -2.0, -1.0]]


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_a_correction_does_not_change_which_tokens_covary(name: str) -> None:
    logp = torch.tensor(LOGP)
    batch = batch_of(COVARYING, noise=torch.tensor([[0.9, 0.1, 0.2, 0.3]]))
    batch = replace(
        batch,
        old=TokenScores(logp=logp),
        sampled=TokenScores(logp=logp + torch.tensor([[0.0, 0.0, 0.0, 2.3]])),
    )
    made: Objective = objective.build(name, {"fraction": 0.25}, key="objective")

    loss = made(TokenScores(logp=logp), corrected(batch, Truncated()).batch)

    # The last token counts a tenth, and is chosen as it would be if it counted whole.
    assert loss.metrics["cov_fraction"].value.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_clip_cov_leaves_out_the_candidate_with_the_smallest_noise() -> None:
    logp = torch.tensor(LOGP, requires_grad=True)
    batch = batch_of(COVARYING, noise=torch.tensor([[0.9, 0.1, 0.2, 0.3]]))
    batch = replace(batch, old=TokenScores(logp=logp.detach()))

    loss = ClipCov(fraction=0.25)(TokenScores(logp=logp), batch)
    (gradient,) = torch.autograd.grad(loss.value.sum(), logp)

    # Only the first and the last token covary by more than 1; the last has the smaller noise of the two.
    torch.testing.assert_close(loss.value, torch.tensor([[1.0, 1.0, -1.0, 0.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 1.0, -1.0, 0.0]]))
    assert loss.metrics["cov_fraction"].value.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_kl_cov_charges_the_highest_covariance_for_leaving_old() -> None:
    logp = torch.tensor(LOGP, requires_grad=True)
    old = torch.tensor([[-4.0, -3.0, -2.0, -1.5]])
    batch = batch_of(COVARYING, old=TokenScores(logp=old), noise=torch.tensor([[0.9, 0.1, 0.2, 0.3]]))

    loss = KLCov(fraction=0.25, weight=2.0)(TokenScores(logp=logp), batch)
    (gradient,) = torch.autograd.grad(loss.value.sum(), logp)

    # Two tokens covary equally; the noise decides, and the loser pays nothing. Nothing is clipped.
    e = 1.6487213
    torch.testing.assert_close(loss.value, torch.tensor([[1.0, 1.0, -1.0, -e + 2.0 * 0.5]]))
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 1.0, -1.0, -e + 2.0]]))


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_the_chosen_tokens_do_not_depend_on_the_order_of_the_rows(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    # Few distinct values: many tokens covary equally, as saturated ones do.
    logp = torch.randint(-3, 1, (40, 25), generator=draw).float() / 3
    advantage = torch.randint(0, 2, (40, 1), generator=draw).float().expand(40, 25) * 1.7 - 0.3
    noise, order = torch.rand(40, 25, generator=draw), torch.randperm(40, generator=draw)
    options = {"fraction": 0.01} | ({"cov_low": 0.0} if name == "clip_cov" else {})
    made: Objective = objective.build(name, options, key="objective")

    def chosen(rows: torch.Tensor) -> torch.Tensor:
        batch = batch_of(advantage[rows].tolist(), noise=noise[rows], old=TokenScores(logp=logp[rows]))
        return made(TokenScores(logp=logp[rows]), batch).metrics["cov_fraction"].value.bool()

    everywhere = chosen(torch.arange(40))
    assert everywhere.sum() == 10
    assert torch.equal(chosen(order), everywhere[order])


def test_the_hazard_of_mhpo_damps_even_a_token_that_has_not_moved() -> None:
    loss, gradient = worked("mhpo", {}, [[1.0]], batch_of([[1.0]]))

    assert loss.value.item() == pytest.approx(-0.265, abs=5e-4)
    assert gradient.item() == pytest.approx(loss.value.item())


def test_r2vpo_charges_the_squared_distance_of_the_ratio_from_1() -> None:
    loss, gradient = worked("r2vpo", {"price": 0.5}, [[3.0]], batch_of([[1.0]]))

    assert loss.value.item() == pytest.approx(-3.0 + 0.5 * 4.0)
    assert gradient.item() == pytest.approx(3.0 * (-1.0 + 2 * 0.5 * 2.0))


def test_optional_columns_are_read_only_where_something_needs_them() -> None:
    assert GRPO().reads == {"old"}
    assert GRPO(kl_weight=0.01).reads == {"old", "reference"}
    assert ERC(kl_weight=0.01).reads == {"old", "entropy", "reference"}
    assert ClipCov().reads == {"old", "noise"}
    assert SFT().reads == frozenset()


def test_what_looks_at_the_whole_update_says_so() -> None:
    scopes = {name: objective.build(name, {}, key="objective").scope for name in ("grpo", "gppo", "erc")}

    assert scopes == {"grpo": "token", "gppo": "token", "erc": "token"}
    assert {ClipCov().scope, KLCov().scope} == {"step"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("grpo", {"clip_low": 1.1}, "clip_low must lie in [0, 1], got 1.1."),
        ("grpo", {"clip_high": -0.1}, "clip_high must not be negative, got -0.1."),
        ("grpo", {"dual_clip": 1.0}, "dual_clip must be above 1, got 1.0."),
        ("grpo", {"kl_weight": -1.0}, "kl_weight must be finite and not negative, got -1.0."),
        ("grpo", {"kl": "k4"}, "objective.options.kl"),
        (
            "grpo",
            {"mean_over": "pairs"},
            "mean_over must be one of tokens, responses, budget, or a number from 1 on, got 'pairs'.",
        ),
        ("dapo", {"mean_over": 0}, "or a number from 1 on, got 0."),
        ("rloo", {"mean_over": "tokens"}, 'must be "responses" with ratio = "sequence", got \'tokens\'.'),
        ("cispo", {"ratio_cap": 0.5}, "ratio_cap must be at least 1, got 0.5."),
        ("cispo", {"ratio_floor": 1.5}, "ratio_floor must lie in [0, 1], got 1.5."),
        ("gppo", {"positive_weight": -0.1}, "positive_weight must be finite and not negative, got -0.1."),
        (
            "gppo",
            {"positive_weight": 0.1, "mean_over": "responses"},
            "must be \"tokens\" with a positive_weight, got 'responses'.",
        ),
        ("ce_gppo", {"low_weight": -1.0}, "low_weight must be finite and not negative, got -1.0."),
        ("erc", {"entropy_low": 1.0}, "entropy_low must lie in [0, 1), got 1.0."),
        ("erc", {"entropy_high": 1.0}, "entropy_high must be above 1, got 1.0."),
        ("clip_cov", {"fraction": 0.0}, "fraction must lie in (0, 1], got 0.0."),
        ("clip_cov", {"cov_low": 6.0}, "cov_low must lie below cov_high = 5.0, got 6.0."),
        ("kl_cov", {"fraction": 2.0}, "fraction must lie in (0, 1], got 2.0."),
        ("kl_cov", {"weight": -1.0}, "weight must be finite and not negative, got -1.0."),
        ("mhpo", {"reach": 0.0}, "reach must be finite and above 0, got 0.0."),
        ("r2vpo", {"price": -0.1}, "price must be finite and not negative, got -0.1."),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        objective.build(name, options, key="objective")

    assert words in str(refused.value)


def test_sft_is_the_negative_log_likelihood_of_each_token() -> None:
    logp = torch.tensor([[-0.5, -2.0]])

    assert SFT()(TokenScores(logp=logp), batch_of([[1.0, 1.0]])).value.tolist() == [[0.5, 2.0]]
