"""The KL to the reference: whatever a token is let off, it pays that."""

from __future__ import annotations

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores
from llmrl.errors import RecipeError
from llmrl.objectives import objective

ROWS, TOKENS = 6, 40
LET_OFF = {"erc": {"entropy_low": 0.98, "entropy_high": 1.02}, "clip_cov": {"fraction": 0.3, "cov_low": 0.0}}


def drawn(dice: torch.Generator, *, spread: float = 1.0) -> torch.Tensor:
    return spread * torch.rand(ROWS, TOKENS, generator=dice, dtype=torch.float64)


@pytest.fixture
def case() -> tuple[TokenScores, Batch]:
    """Scores with a gradient, and a batch of which each token has moved."""
    dice = torch.Generator().manual_seed(0)
    current = TokenScores(logp=-drawn(dice).requires_grad_(), entropy=drawn(dice))
    old = TokenScores(logp=-drawn(dice), entropy=drawn(dice))
    return current, Batch(
        mask=torch.ones(ROWS, TOKENS, dtype=torch.bool),
        advantage=drawn(dice) - 0.5,
        reward=torch.zeros(ROWS, dtype=torch.float64),
        group=torch.zeros(ROWS, dtype=torch.long),
        turn=torch.zeros(ROWS, TOKENS, dtype=torch.long),
        opponent=torch.zeros(ROWS, dtype=torch.bool),
        pairs=torch.zeros(0, 2, dtype=torch.long),
        sampled=old,
        old=old,
        reference=TokenScores(logp=-drawn(dice)),
        noise=drawn(dice),
    )


@pytest.mark.parametrize("name", LET_OFF)
def test_tokens_without_a_policy_gradient_are_drawn_to_the_reference_all_the_same(
    name: str, case: tuple[TokenScores, Batch]
) -> None:
    current, batch = case
    assert batch.reference is not None
    alone = objective.build(name, {**LET_OFF[name]}, key="objective")
    held = objective.build(name, {**LET_OFF[name], "kl_weight": 0.1, "kl": "k2"}, key="objective")

    (without,) = torch.autograd.grad(alone(current, batch).value.sum(), current.logp)
    (both,) = torch.autograd.grad(held(current, batch).value.sum(), current.logp)

    let_off = without == 0
    assert 0.1 < let_off.double().mean() < 1
    # The gradient of k2 is the log-ratio itself.
    assert torch.allclose(both - without, 0.1 * (current.logp.detach() - batch.reference.logp))


@pytest.mark.parametrize("name", ["sft", "nash_md", "nash_ema"])
@pytest.mark.parametrize("wrong", [0, -1, "pairs"])
def test_a_mean_over_nothing_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(RecipeError, match=f"mean_over must be one of .*, got {wrong!r}"):
        objective.build(name, {"mean_over": wrong}, key="objective")
