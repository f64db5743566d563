"""The formulas that policy-gradient objectives share: which tokens are chosen, and what a KL estimate is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmrl.objectives.terms import drawn, gently_clipped, token_kl, topmost


def test_all_candidates_are_drawn_where_they_are_too_few() -> None:
    among = torch.tensor([[True, False, True]])

    assert drawn(among, torch.tensor([[0.5, 0.1, 0.7]]), 5).tolist() == [[True, False, True]]
    assert not drawn(~among & False, torch.zeros(1, 3), 1).any()


def test_the_topmost_tokens_are_as_many_as_asked_for_even_where_values_are_equal() -> None:
    values, mask = torch.tensor([[3.0, 1.0, 1.0, 1.0, 9.0]]), torch.tensor([[True, True, True, True, False]])
    noise = torch.tensor([[0.0, 0.6, 0.2, 0.4, 0.0]])

    assert topmost(values, mask, noise, 3).tolist() == [[True, False, True, True, False]]
    assert topmost(values, mask, noise, 99).tolist() == mask.tolist()


@pytest.mark.parametrize("estimator", ["k1", "k3", "k1+", "k3+"])
def test_the_token_kl_is_the_true_kl_on_average(estimator: Any) -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.2, 0.6]])

    estimate = (p * token_kl(p.log() - q.log(), estimator)).sum()

    torch.testing.assert_close(estimate, (p * (p / q).log()).sum())


@pytest.mark.parametrize(("estimator", "exact"), [("k2", True), ("k1+", True), ("k3+", True), ("k3", False)])
def test_the_gradient_of_the_token_kl_on_average(estimator: Any, exact: bool) -> None:
    logits = torch.tensor([0.9, 0.4, -0.3], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()
    logp = logits.log_softmax(-1)
    (true,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)

    (found,) = torch.autograd.grad(
        (logp.detach().exp() * token_kl(logp - reference, estimator)).sum(), logits
    )

    assert torch.allclose(found, true, atol=1e-12) == exact


@pytest.mark.parametrize("estimator", ["k3", "k3+"])
def test_no_kl_pushes_a_token_away_that_is_far_from_the_reference(estimator: Any) -> None:
    drift = torch.tensor([-19.0, -21.0, -1000.0], requires_grad=True)

    (gradient,) = torch.autograd.grad(token_kl(drift, estimator).sum(), drift)

    assert gradient[0] < 0
    assert (gradient <= 0).all()


def test_a_bound_of_one_clips_nothing_below() -> None:
    ratio, credit = torch.tensor([[1e-6]]), torch.tensor([[-1.0]])

    loss = gently_clipped(ratio, credit, 1.0, 0.2, low_weight=0.0, high_weight=0.0)

    torch.testing.assert_close(loss, torch.tensor([[1e-6]]))
