"""The opponent's two formulas equal the shared vectors in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmrl.rollouts.engines.opponent import geometric_mixture, move_average


def read(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "vectors" / "core" / f"{name}.json").read_text())


def test_the_mixture_equals_the_shared_vector(shared: Path) -> None:
    vector = read(shared, "nash_geometric_mixture")
    policy, reference = (
        torch.tensor(vector["inputs"][f"{name}_logits"], dtype=torch.float64) for name in ("model", "ref")
    )

    mixed = geometric_mixture(policy, reference, weight=vector["config"]["mixture_coef"]).log_softmax(-1)

    expected = torch.tensor(vector["outputs"]["mixture_logprobs"], dtype=torch.float64)
    torch.testing.assert_close(mixed, expected, atol=1e-12, rtol=0.0)


def test_a_mixture_of_log_probabilities_is_the_same_distribution() -> None:
    policy, reference = torch.tensor([3.0, 1.0, -2.0]), torch.tensor([0.0, 5.0, 1.0])

    raw = geometric_mixture(policy, reference, weight=0.3).softmax(-1)
    normal = geometric_mixture(policy.log_softmax(-1), reference.log_softmax(-1), weight=0.3).softmax(-1)

    torch.testing.assert_close(raw, normal)


def test_the_average_equals_the_shared_vector(shared: Path) -> None:
    vector = read(shared, "nash_ema")
    average = torch.tensor(vector["inputs"]["theta_bar"], dtype=torch.float64)
    newest = torch.tensor(vector["inputs"]["theta"], dtype=torch.float64)

    move_average(average, newest, decay=vector["config"]["beta"])

    expected = torch.tensor(vector["outputs"]["theta_bar_next"], dtype=torch.float64)
    torch.testing.assert_close(average, expected, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(1, 9.0), (2, 8.1), (0, 10.0), (-3, 10.0)],
    ids=["next", "two", "again", "back"],
)
def test_versions_that_were_missed_are_made_up_for(versions: int, expected: float) -> None:
    average = torch.tensor([10.0])

    move_average(average, torch.tensor([0.0]), decay=0.9, versions=versions)

    torch.testing.assert_close(average, torch.tensor([expected]))
