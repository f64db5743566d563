"""Shaping, worked by hand, and what must hold for every shaping of llmrl."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmrl.batches.batch import Batch, TokenScores
from llmrl.errors import RecipeError
from llmrl.objectives.empg import EntropyModulation
from llmrl.objectives.shaping import KL, Shaping, Whiten, shaping, to_go

SHAPINGS: list[Shaping] = [Whiten(), KL(weight=0.3, discount=0.9), EntropyModulation()]


def batch_of(rows: int = 5, width: int = 7) -> Batch:
    """Ragged rows in float64 with a gap, several turns, and a row without trained tokens."""
    draw = torch.Generator().manual_seed(3)
    turn = torch.randint(0, 2, (rows, width), generator=draw).cumsum(-1) // 2
    mask = (torch.rand(rows, width, generator=draw) < 0.8) & (torch.arange(rows) != 2)[:, None]

    def column() -> torch.Tensor:
        return torch.rand(rows, width, generator=draw, dtype=torch.float64).where(mask, 0.0)

    return Batch(
        mask=mask,
        advantage=column() - 0.5 * mask,
        reward=torch.zeros(rows, dtype=torch.float64),
        group=torch.arange(rows),
        turn=turn.where(mask, 0),
        pairs=torch.zeros(0, 2, dtype=torch.int64),
        opponent=torch.zeros(rows, dtype=torch.bool),
        sampled=TokenScores(logp=-column()),
        old=TokenScores(logp=-column(), entropy=column()),
        reference=TokenScores(logp=-column()),
    )


def taken(batch: Batch, rows: torch.Tensor, wider: int = 0) -> Batch:
    """Some rows of a batch, padded on the right."""

    def pick(column: torch.Tensor) -> torch.Tensor:
        kept = column[rows]
        return torch.nn.functional.pad(kept, (0, wider)) if kept.ndim == 2 else kept

    def scores(one: TokenScores) -> TokenScores:
        return TokenScores(logp=pick(one.logp), entropy=None if one.entropy is None else pick(one.entropy))

    assert batch.reference is not None
    return replace(
        batch,
        mask=pick(batch.mask),
        advantage=pick(batch.advantage),
        reward=pick(batch.reward),
        group=pick(batch.group),
        turn=pick(batch.turn),
        opponent=pick(batch.opponent),
        sampled=scores(batch.sampled),
        old=scores(batch.old),
        reference=scores(batch.reference),
    )


def test_whitened_advantages_have_mean_0_and_variance_1_over_tokens() -> None:
    batch = batch_of(2, 3)
    batch = replace(
        batch,
        mask=torch.tensor([[True, True, False], [True, True, False]]),
        advantage=torch.tensor([[1.0, 1.0, 0.0], [5.0, 5.0, 0.0]]),
    )

    # The mean is 3, the unbiased variance 16/3.
    unit = 2 / math.sqrt(16 / 3)
    expected = torch.tensor([[-unit, -unit, 0.0], [unit, unit, 0.0]])
    torch.testing.assert_close(Whiten()(batch), expected)


def test_the_advantage_of_a_single_token_is_whitened_to_zero() -> None:
    batch = batch_of()
    one = torch.zeros_like(batch.mask)
    one[0, 0] = True

    assert not Whiten()(replace(batch, mask=one, advantage=3.0 * one)).any()


def test_equal_advantages_are_whitened_to_exactly_zero() -> None:
    batch = batch_of()

    made = Whiten()(replace(batch, advantage=0.25 * batch.mask))

    assert made.eq(0).all()


def test_a_token_pays_for_itself_and_for_what_follows_with_discount() -> None:
    price = torch.tensor([[1.0, 0.0, 2.0, 4.0]])
    mask = torch.tensor([[True, False, True, True]])

    assert to_go(price, mask, 1.0).tolist() == [[7.0, 0.0, 6.0, 4.0]]
    # The gap discounts nothing: 1 + (2 + 4 / 2) / 2.
    assert to_go(price, mask, 0.5).tolist() == [[3.0, 0.0, 4.0, 4.0]]
    assert price.tolist() == [[1.0, 0.0, 2.0, 4.0]]


def test_what_is_to_go_equals_a_loop_over_tokens() -> None:
    batch = batch_of(4, 13)
    values, expected = batch.old.logp, torch.zeros(4, 13, dtype=torch.float64)
    for row in range(4):
        total = 0.0
        for column in range(12, -1, -1):
            if batch.mask[row, column]:
                total = float(values[row, column]) + 0.9 * total
                expected[row, column] = total

    torch.testing.assert_close(to_go(values, batch.mask, 0.9), expected)


def test_kl_lowers_the_advantage_of_tokens_that_lead_away_from_the_reference() -> None:
    batch = batch_of(1, 3)
    batch = replace(
        batch,
        mask=torch.tensor([[True, True, True]]),
        advantage=torch.tensor([[1.0, 1.0, 1.0]]),
        old=TokenScores(logp=torch.tensor([[-1.0, -1.0, -2.0]])),
        reference=TokenScores(logp=torch.tensor([[-1.0, -3.0, -1.0]])),
    )

    torch.testing.assert_close(KL(weight=0.5)(batch), torch.tensor([[0.5, 0.5, 1.5]]))


def test_empg_of_two_responses_worked_by_hand() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    batch = replace(
        batch_of(2, 3),
        mask=mask,
        advantage=torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], dtype=torch.float64),
        turn=torch.tensor([[0, 0, 1], [0, 0, 0]]),
        old=TokenScores(
            logp=torch.zeros(2, 3), entropy=torch.tensor([[0.2, 0.4, 1.3], [0.3, 0.3, 0.3]]).double()
        ),
    )

    made = EntropyModulation(k=1.0, k_next=2.0, zeta=0.1)(batch)

    # The turns' entropies 0.3, 1.3, 0.3 are 0, 1, 0; g is e^0, e^-1, e^0 over their mean.
    sure, unsure = 3 / (2 + math.exp(-1)), 3 * math.exp(-1) / (2 + math.exp(-1))
    bonus = 0.1 * math.exp(-2)
    mean = (sure + bonus + unsure - sure) / 3
    first, second, third = sure + bonus - mean, unsure - mean, -sure - mean
    expected = torch.tensor([[first, first, second], [third, third, third]], dtype=torch.float64)
    torch.testing.assert_close(made, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("made", SHAPINGS, ids=repr)
def test_the_order_of_the_rows_and_their_padding_change_nothing(made: Any) -> None:
    batch, order = batch_of(), torch.tensor([3, 0, 4, 2, 1])

    torch.testing.assert_close(made(taken(batch, order, wider=4))[:, :7], made(batch)[order])


@pytest.mark.parametrize("made", SHAPINGS, ids=repr)
def test_advantages_stay_exactly_zero_outside_the_mask(made: Any) -> None:
    batch = batch_of()

    assert made(batch)[~batch.mask].eq(0).all()
    assert made(batch).isfinite().all()


@pytest.mark.parametrize("made", SHAPINGS, ids=repr)
@pytest.mark.parametrize("mask", ["nothing", "one token"])
def test_a_step_with_nothing_to_compare_stays_finite(made: Any, mask: str) -> None:
    few = torch.zeros(5, 7, dtype=torch.bool)
    few[1, 2] = mask == "one token"
    batch = batch_of()
    zeros = torch.zeros(5, 7, dtype=torch.float64)

    shaped = made(replace(batch, mask=few, advantage=zeros, turn=zeros.long()))

    assert shaped.isfinite().all()
    assert shaped[~few].eq(0).all()


@pytest.mark.parametrize("made", SHAPINGS, ids=repr)
def test_the_type_of_the_advantages_is_kept_and_their_values_too(made: Any) -> None:
    batch = batch_of()
    before = batch.advantage.clone()

    single = made(replace(batch, advantage=batch.advantage.float()))

    torch.testing.assert_close(batch.advantage, before, atol=0, rtol=0)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), made(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("whiten", {"eps": 0.0}, r"shaping\.0\.options: eps must be finite and above 0, got 0\.0"),
        ("kl", {"weight": -0.1}, r"weight must be finite and not negative, got -0\.1"),
        ("kl", {"discount": 1.5}, r"discount must lie in \(0, 1\], got 1\.5"),
        ("empg", {"k": -1.0}, r"k must be finite and not negative, got -1\.0"),
        ("empg", {"zeta": math.inf}, "zeta must be finite and not negative, got inf"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        shaping.build(name, options, key="shaping.0")
