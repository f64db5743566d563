"""Every objective keeps the contract, with its default options and with those that change its formula."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.objectives import objective
from llmrl.testing import CHECKS, check_objective, faults

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "grpo": [
        {"mean_over": "tokens"},
        {"mean_over": "budget"},
        {"mean_over": 16},
        {"dual_clip": 3.0},
        {"kl_weight": 0.1},
        {"kl_weight": 0.1, "kl": "k3+"},
        {"kl_weight": 0.1, "kl": "k2", "kl_corrected": True},
    ],
    "ce_gppo": [{"positive_weight": 0.1}],
    "cispo": [{"ratio_cap": 1.1, "ratio_floor": 0.9}],
    "clip_cov": [{"fraction": 0.2, "cov_low": 0.01, "clip_low": 0.2, "clip_high": 0.2}],
    "dpo": [{"score": "mean"}],
    "erc": [{"base": "gppo"}],
    "gppo": [{"positive_weight": 0.1}],
    "ipo": [{"score": "mean"}],
    "kl_cov": [{"fraction": 0.2}],
    "nash_md": [{"kl": "sequence"}, {"kl": "token"}, {"kl_weight": 0.0}],
    "rebel": [{"kl_weight": 0.1}],
    "riskpo": [{"ratio": "response", "mean_over": "responses", "dual_clip": None}],
    "rloo": [{"ratio": "token", "mean_over": 1}],
    "xpo": [{"optimism": 0.1}],
}
"""Options that switch a term on or exchange a part of the formula."""

CASES = [(name, options) for name in objective.names for options in ({}, *VARIANTS.get(name, []))]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_it_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    assert faults(objective.build(name, options, key="objective")) == []


def test_every_check_applies_to_some_objective() -> None:
    findings = [
        finding
        for name in ("grpo", "dpo")
        for finding in check_objective(objective.build(name, {}, key="objective"), seeds=[0])
    ]

    assert {finding.check for finding in findings if finding.outcome == "passed"} == set(CHECKS)
    assert {f.check for f in findings if f.outcome == "left out"} == {
        "no credit",
        "clip bounds",
        "expected gradient",
    }


def test_what_looks_at_the_whole_update_says_so() -> None:
    wholes = [name for name in objective.names if objective.build(name, {}, key="objective").scope == "step"]

    assert wholes == ["clip_cov", "kl_cov"]
    assert objective.build("gppo", {"positive_weight": 0.1}, key="objective").scope == "step"
