"""The loss and the metrics of a step do not depend on how the step was split."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmrl.batches.batch import Totals
from llmrl.policy.reduce import Tally, reduce_loss

VALUE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
TOTALS = Totals(tokens=4, responses=2, pairs=2)


class Alone:
    """The only rank."""

    def total(self, values: Tensor) -> Tensor:
        return values

    def largest(self, values: Tensor) -> Tensor:
        return values


def test_tokens_weigh_the_same_or_responses_do():
    assert reduce_loss(VALUE, MASK, TOTALS, "tokens").item() == (1 + 2 + 3 + 4) / 4
    assert reduce_loss(VALUE, MASK, TOTALS, "responses").item() == (2 + 4) / 2
    assert reduce_loss(torch.tensor([1.0, 5.0]), MASK, TOTALS, "pairs").item() == 3


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 6), max_size=4),
    seed=st.integers(0, 100),
    unit=st.sampled_from(["tokens", "responses"]),
    wider=st.integers(0, 3),
)
def test_the_shares_of_any_split_add_up_in_value_and_gradient(cuts, seed, unit, wider):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.rand(6, 5, generator=generator) < 0.5
    totals = Totals(tokens=int(mask.sum()), responses=int(mask.any(-1).sum()))
    (whole,) = torch.autograd.grad(loss := reduce_loss(value, mask, totals, unit), value)

    borders = [0, *sorted(cuts), 6]
    shares = [
        reduce_loss(padded(value[a:b], wider), padded(mask[a:b], wider), totals, unit)
        for a, b in pairwise(borders)
    ]
    (split,) = torch.autograd.grad(total := torch.stack(shares).sum(), value)

    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(split, whole)


def padded(x: Tensor, wider: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, wider))


def test_what_stands_outside_the_mask_reaches_neither_loss_nor_gradient():
    value = VALUE.clone().requires_grad_()

    loss = reduce_loss(value.where(MASK, torch.nan), MASK, TOTALS, "responses")
    (gradient,) = torch.autograd.grad(loss, value)

    assert loss.item() == 3
    torch.testing.assert_close(gradient, torch.tensor([[1, 1, 1], [3, 0, 0], [0, 0, 0]]) / 6)


def test_a_step_with_nothing_to_train_has_a_loss_of_zero():
    nothing = Totals(tokens=0, responses=0)
    value = torch.ones(1, 1, requires_grad=True)

    for unit in ("tokens", "responses"):
        loss = reduce_loss(value, torch.zeros(1, 1, dtype=torch.bool), nothing, unit)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, value)[0].item() == 0


@pytest.mark.parametrize("unit", ["tokens", "responses"])
def test_a_loss_that_would_be_broadcast_is_refused(unit):
    with pytest.raises(ValueError, match=rf"a loss over {unit} must be \[B, T\] = \[3, 3\], got \[3, 1\]"):
        reduce_loss(VALUE[:, :1], MASK, TOTALS, unit)


def test_a_loss_over_pairs_that_is_not_a_row_is_refused():
    with pytest.raises(ValueError, match=r"a loss over pairs must be \[P\], got \[3, 3\]"):
        reduce_loss(VALUE, MASK, TOTALS, "pairs")


def test_sums_over_responses_are_divided_by_the_budget_or_a_number():
    totals = Totals(tokens=4, responses=2, budget=5)

    # Sums of the rows: 1 + 2 + 3 = 6, and 4.
    assert reduce_loss(VALUE, MASK, totals, "budget").item() == pytest.approx((6 + 4) / 5 / 2)
    assert reduce_loss(VALUE, MASK, totals, 1).item() == 5
    assert reduce_loss(VALUE, MASK, totals, 16).item() == pytest.approx(10 / 16 / 2)


def test_a_loss_per_response_counts_those_with_a_trained_token():
    value = torch.tensor([1.0, 5.0, torch.nan])

    assert reduce_loss(value, MASK, TOTALS, "responses").item() == 3
    with pytest.raises(ValueError, match=r"a loss over tokens must be \[B, T\] = \[3, 3\], got \[3\]"):
        reduce_loss(value, MASK, TOTALS, "tokens")


def count(tally: Tally, rows: slice) -> None:
    tally.add("loss", VALUE[rows].where(MASK[rows], 0.0).sum() / 4)
    tally.mean("value", VALUE[rows], MASK[rows])
    tally.mean("rows", VALUE[rows, 0], MASK[rows].any(-1))
    tally.largest("most", VALUE[rows], MASK[rows])


@pytest.mark.parametrize("split", [[3], [1, 3], [0, 2, 3], [1, 2, 3]], ids=str)
def test_metrics_are_those_of_the_whole_step(split):
    tally = Tally()

    for start, stop in zip([0, *split[:-1]], split, strict=True):
        count(tally, slice(start, stop))

    assert tally.over(Alone()) == {"loss": 2.5, "value": 2.5, "rows": 2.5, "most": 4.0}


def test_ranks_are_reduced_together_in_one_order():
    class Two(Alone):
        """The other rank saw rows 1 and 2; the names arrive sorted: loss, rows, value, then weights."""

        def total(self, values: Tensor) -> Tensor:
            return values + torch.tensor([1.0, 4.0, 4.0] if values.numel() == 3 else [1.0, 1.0])

        def largest(self, values: Tensor) -> Tensor:
            return values.maximum(torch.tensor([4.0]))

    tally = Tally()
    count(tally, slice(0, 1))

    assert tally.over(Two()) == {"loss": 2.5, "value": 2.5, "rows": 2.5, "most": 4.0}


def test_a_mean_over_nothing_is_left_out():
    tally = Tally()

    tally.mean("value", torch.tensor([torch.nan]), torch.tensor([False]))
    tally.largest("most", torch.tensor([torch.nan]), torch.tensor([False]))

    assert tally.over(Alone()) == {}


def test_counting_keeps_no_graph():
    tally = Tally()
    value = torch.ones(2, requires_grad=True)

    tally.mean("value", value * 2, torch.ones(2, dtype=torch.bool))

    assert tally.over(Alone()) == {"value": 2.0}


def test_a_metric_of_another_shape_than_its_mask_is_refused():
    with pytest.raises(ValueError, match=r"metric kl: value \[2\] and where \[3\] differ"):
        Tally().mean("kl", torch.zeros(2), torch.ones(3, dtype=torch.bool))
