"""Correction: weights for the difference between engine and trainer, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llmrl.errors import RecipeError
from llmrl.experience.correction import Bypass, Masked, NoCorrection, Truncated, correction

LEVELS: list[Any] = ["token", "response", "mean"]


def all_of(ratios: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(ratios, dtype=torch.bool)


def test_weights_of_three_tokens_worked_by_hand() -> None:
    ratios = torch.tensor([[0.25, 1.5, 8.0]])
    given = ratios.log(), all_of(ratios)

    assert NoCorrection()(*given).tolist() == [[1.0, 1.0, 1.0]]
    assert Bypass()(*given).tolist() == [[1.0, 1.0, 1.0]]
    torch.testing.assert_close(Truncated(cap=2.0)(*given), torch.tensor([[0.25, 1.5, 2.0]]))
    torch.testing.assert_close(Masked(low=0.5, high=5.0)(*given), torch.tensor([[0.0, 1.5, 0.0]]))


def test_a_response_has_the_product_of_its_trained_tokens_or_their_geometric_mean() -> None:
    ratios = torch.tensor([[2.0, 1.0, 8.0], [0.5, 0.5, 1.0]])
    mask = torch.tensor([[True, False, True], [True, True, False]])
    given = ratios.log(), mask

    product = torch.tensor([[16.0], [0.25]]).expand(2, 3)
    mean = torch.tensor([[4.0], [0.5]]).expand(2, 3)
    torch.testing.assert_close(Truncated(cap=100.0, level="response")(*given), product)
    torch.testing.assert_close(Truncated(cap=100.0, level="mean")(*given), mean)
    torch.testing.assert_close(Truncated(cap=10.0, level="response")(*given), product.clamp(max=10.0))
    torch.testing.assert_close(
        Masked(low=0.0, high=15.0, level="response")(*given), product.where(product < 15, 0.0)
    )
    torch.testing.assert_close(Masked(low=0.6, high=5.0, level="mean")(*given), mean.where(mean > 1, 0.0))


def test_what_stands_outside_the_mask_has_no_part_in_a_response() -> None:
    log_ratio = torch.tensor([[0.5, math.nan, -0.25]])
    mask = torch.tensor([[True, False, True]])

    for level in ("response", "mean"):
        weight = Truncated(cap=9.0, level=level)(log_ratio, mask)

        assert weight[0, 0].item() == pytest.approx(math.exp(0.25 if level == "response" else 0.125))


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_ratios_and_responses_without_trained_tokens_stay_finite(level: Any) -> None:
    extreme = torch.tensor([[-1000.0, 1000.0], [1000.0, 1000.0], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [False, False]])

    for made in (Truncated(level=level), Masked(level=level)):
        weight = made(extreme, mask)

        assert weight.isfinite().all()
        assert weight[2].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_s_weight_does_not_depend_on_other_rows_or_padding(level: Any) -> None:
    torch.manual_seed(0)
    log_ratio = torch.randn(4, 6)
    mask = torch.rand(4, 6) < 0.7
    log_ratio = log_ratio.where(mask, 0.0)
    wider = torch.nn.functional.pad(log_ratio, (0, 3)), torch.nn.functional.pad(mask, (0, 3))

    for made in (Truncated(level=level), Masked(level=level)):
        whole = made(log_ratio, mask)

        torch.testing.assert_close(made(log_ratio[2:3], mask[2:3]), whole[2:3])
        torch.testing.assert_close(made(*wider)[:, :6], whole)


def test_only_bypass_compares_with_the_engine() -> None:
    anchors = {name: correction.get(name, key="correction").anchor for name in correction.names}

    assert anchors == {"bypass": "sampled", "masked": "old", "none": "old", "truncated": "old"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("truncated", {"cap": 0.5}, r"cap must be at least 1, got 0\.5"),
        ("truncated", {"cap": math.nan}, "cap must be at least 1, got nan"),
        ("masked", {"low": 2.0}, r"low and high must lie on either side of 1, got 2\.0 and 5\.0"),
        ("masked", {"level": "sequence"}, r"correction\.options\.level"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        correction.build(name, options, key="correction")
