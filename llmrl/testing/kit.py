"""The conformance kit: all that the contract promises, checked on any objective."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Mapping
from pathlib import Path

from llmrl.objectives.contract import Objective
from llmrl.testing.clipping import clips_where_it_says
from llmrl.testing.declared import reads_what_it_declares, sound_declaration
from llmrl.testing.derivative import agrees_with_finite_differences, learns
from llmrl.testing.estimates import estimates_what_it_says
from llmrl.testing.finding import Check, Fault, Finding, LeftOut
from llmrl.testing.masking import (
    blind_outside_the_mask,
    blind_to_padding,
    calm_without_tokens,
    zero_outside_the_mask,
)
from llmrl.testing.numbers import (
    close_in_bfloat16,
    close_in_float32,
    finite_at_extremes,
    plain_metrics,
    same_when_asked_again,
    still_without_credit,
)
from llmrl.testing.splits import (
    same_in_any_order,
    same_in_micro_batches,
    same_in_two_passes,
    same_on_ranks,
    same_when_packed,
)

CHECKS: Mapping[str, Check] = {
    "declaration": sound_declaration,
    "reads": reads_what_it_declares,
    "learns": learns,
    "deterministic": same_when_asked_again,
    "finite differences": agrees_with_finite_differences,
    "zero outside the mask": zero_outside_the_mask,
    "NaN outside the mask": blind_outside_the_mask,
    "padding": blind_to_padding,
    "nothing to train": calm_without_tokens,
    "row order": same_in_any_order,
    "micro-batches": same_in_micro_batches,
    "ranks": same_on_ranks,
    "packing": same_when_packed,
    "two passes": same_in_two_passes,
    "no credit": still_without_credit,
    "clip bounds": clips_where_it_says,
    "extremes": finite_at_extremes,
    "float32": close_in_float32,
    "bfloat16": close_in_bfloat16,
    "metrics": plain_metrics,
    "expected gradient": estimates_what_it_says,
}

SEEDS = (0, 1, 2)


def check_objective(
    objective: Objective, *, seeds: Collection[int] = SEEDS, leave_out: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Run every check of the contract on one objective, on tiny updates in float64.

    Args:
        objective: an instance, with the options to check.
        seeds: seeds of the updates; a check passes if it holds on all of them.
        leave_out: names of checks that this objective breaks on purpose.
    """
    return tuple(_found(name, objective, seeds, leave_out) for name in CHECKS)


def faults(objective: Objective, *, leave_out: Collection[str] = ()) -> list[str]:
    """One sentence for each way in which an objective breaks the contract; none if it keeps it."""
    findings = check_objective(objective, leave_out=leave_out)
    return [f"{finding.check}: {finding.says}" for finding in findings if finding.outcome == "failed"]


def _found(name: str, objective: Objective, seeds: Collection[int], leave_out: Collection[str]) -> Finding:
    if name in leave_out:
        return Finding(check=name, outcome="left out", says="left out on request.")
    try:
        for seed in seeds:
            CHECKS[name](objective, seed)
    except Fault as fault:
        return Finding(check=name, outcome="failed", says=str(fault))
    except LeftOut as reason:
        return Finding(check=name, outcome="left out", says=str(reason))
    except Exception as error:  # noqa: BLE001  whatever an objective raises is a finding about it
        return Finding(check=name, outcome="failed", says=_raised(error))
    return Finding(check=name, outcome="passed", says="")


def _raised(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"it raised {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})."
