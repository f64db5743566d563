"""Every objective keeps the contract, with its default options and with those that change its formula."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.objectives import objective
from llmrl.testing import CHECKS, check_objective, faults

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{"kl_weight": 0.1}, {"mean_over": "tokens"}, {"mean_over": "budget"}, {"mean_over": 16}],
}
"""Options that switch a term on or exchange a part of the formula."""

CASES = [(name, options) for name in objective.names for options in ({}, *VARIANTS.get(name, []))]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_it_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    assert faults(objective.build(name, options, key="objective")) == []


def test_every_check_applies_to_some_objective() -> None:
    passed = {
        finding.check
        for name in objective.names
        for finding in check_objective(objective.build(name, {}, key="objective"), seeds=[0])
        if finding.outcome == "passed"
    }

    assert passed == set(CHECKS)
