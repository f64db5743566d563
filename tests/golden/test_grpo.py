"""GRPO equals its authors' numbers: the shared vectors in float64, and four tokens worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores, Totals
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.sft import SFT
from llmrl.policy.reduce import reduce_loss


def batch_of(mask: torch.Tensor, advantage: torch.Tensor, old: torch.Tensor, **more: TokenScores) -> Batch:
    zeros = torch.zeros_like(old)
    return Batch(
        mask=mask,
        advantage=advantage,
        group=torch.zeros(mask.shape[0], dtype=torch.int64),
        turn=torch.zeros(mask.shape, dtype=torch.int64),
        sampled=TokenScores(logp=zeros),
        old=TokenScores(logp=old),
        **more,
    )


def test_loss_of_four_tokens_worked_by_hand() -> None:
    ratio = torch.tensor([[0.5, 1.0, 1.5, 1.5]])
    batch = batch_of(
        torch.ones(1, 4, dtype=torch.bool), torch.tensor([[1.0, 1.0, 1.0, -1.0]]), torch.zeros(1, 4)
    )

    out = GRPO(clip_low=0.2, clip_high=0.2)(TokenScores(logp=ratio.log()), batch)

    # A good token earns its ratio up to 1.2; a bad one is charged in full, however far it rose.
    torch.testing.assert_close(out.value, torch.tensor([[-0.5, -1.0, -1.2, 1.5]]))
    assert out.metrics["clip_fraction"].value.tolist() == [[0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "options", "unit"),
    [
        ("grpo_seq_mean_token_mean", {"kl_weight": 0.04}, "responses"),
        ("grpo_token_mean", {"kl_weight": 0.04}, "tokens"),
        ("ppo_clip_sym02", {}, "tokens"),
        ("dapo_cliphigher", {"clip_high": 0.28}, "tokens"),
    ],
)
def test_loss_and_gradient_equal_the_shared_vector(shared: Path, name: str, options: dict, unit: str) -> None:
    vector = json.loads((shared / "vectors" / "core" / f"{name}.json").read_text())
    given = {key: torch.tensor(value, dtype=torch.float64) for key, value in vector["inputs"].items()}
    mask = given["mask"].bool()
    # What collate promises: every column is exactly 0 outside the mask.
    columns = {key: given[key].where(mask, 0.0) for key in given if key.endswith("logprobs")}
    current = columns.pop("logprobs").requires_grad_()
    advantage = given["advantages"] if given["advantages"].ndim == 2 else given["advantages"][:, None] * mask
    more = {"reference": TokenScores(logp=columns["ref_logprobs"])} if "kl_weight" in options else {}

    loss = GRPO(**options)(
        TokenScores(logp=current), batch_of(mask, advantage, columns["old_logprobs"], **more)
    )
    totals = Totals(tokens=int(mask.sum()), responses=mask.shape[0])
    share = reduce_loss(loss.value, mask, totals, unit)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(share, current)

    expected = torch.tensor(vector["outputs"]["grad_logprobs"], dtype=torch.float64)
    torch.testing.assert_close(share.item(), vector["outputs"]["loss"], atol=5e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, expected, atol=5e-9, rtol=1e-9)
    assert (gradient[~mask] == 0).all()


def test_the_reference_is_read_only_where_something_is_weighed_against_it() -> None:
    assert GRPO().reads == {"old"}
    assert GRPO(kl_weight=0.01).reads == {"old", "reference"}
    assert SFT().reads == frozenset()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip_low": 1.0}, r"clip_low must lie in \[0, 1\), got 1\.0"),
        ({"clip_high": -0.1}, r"clip_high must not be negative, got -0\.1"),
        ({"kl_weight": -1.0}, r"kl_weight must be finite and not negative, got -1\.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GRPO(**options)


def test_sft_is_the_negative_log_likelihood_of_each_token() -> None:
    logp = torch.tensor([[-0.5, -2.0]])
    batch = batch_of(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2), logp)

    assert SFT()(TokenScores(logp=logp), batch).value.tolist() == [[0.5, 2.0]]
