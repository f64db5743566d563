"""The output of ``llmrl check``: the verdict on objectives and on test vectors, a line for each."""

from __future__ import annotations

import time
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmrl.errors import RecipeError, did_you_mean, shown
from llmrl.objectives.contract import objective
from llmrl.registry import load_plugins
from llmrl.testing import CHECKS, Finding, check_objective
from llmrl.vectors import Verdict, check_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of output."""

    text: str
    good: bool = True
    """Whether the line reports no fault."""


def check_named(
    name: str, settings: Sequence[str] = (), *, plugins: Sequence[str] = (), leave_out: Collection[str] = ()
) -> Iterator[Line]:
    """Run every check of one objective.

    Args:
        name: name of the objective, as in a recipe.
        settings: its options as ``key=value``, values as in TOML.
        plugins: modules to import first.
        leave_out: names of checks that it breaks on purpose.

    Raises:
        PluginError: a module cannot be imported.
        RecipeError: no such objective, option or check, or a value that it refuses.
    """
    load_plugins(plugins)
    _refuse_unknown(leave_out)
    made = objective.build(name, dict(map(_setting, settings)), key="objective")
    _one_thread()
    begun = time.monotonic()
    findings = check_objective(made, leave_out=leave_out)
    for found in findings:
        text = f"{found.outcome:9} {found.check:22} {found.says}"
        yield Line(text=text.rstrip(), good=found.outcome != "failed")
    wrong = any(found.outcome == "failed" for found in findings)
    yield _summary(1, int(wrong), time.monotonic() - begun)


def check_all(*, plugins: Sequence[str] = (), leave_out: Collection[str] = ()) -> Iterator[Line]:
    """Run every check but those left out on every objective with default options, plugins' included.

    Raises:
        PluginError: a module cannot be imported.
        RecipeError: no such check.
    """
    load_plugins(plugins)
    _refuse_unknown(leave_out)
    _one_thread()
    begun, wrong = time.monotonic(), 0
    for name in objective.names:
        started = time.monotonic()
        try:
            findings = check_objective(objective.build(name, {}, key="objective"), leave_out=leave_out)
        except RecipeError as error:
            findings = (Finding(check="options", outcome="failed", says=str(error)),)
        lines = list(_objective_lines(name, findings, time.monotonic() - started))
        wrong += len(lines) > 1
        yield from lines
    yield _summary(len(objective.names), wrong, time.monotonic() - begun)


def check_vectors(folder: Path) -> Iterator[Line]:
    """Compare every vector of a folder with the parts of llmrl that compute it.

    Raises:
        DataError: there are no vectors, or a file is not a vector.
    """
    _one_thread()
    counts = Counter[str]()
    for verdict in check_folder(folder):
        counts[verdict.outcome] += 1
        yield Line(text=_vector_line(verdict), good=verdict.good)
    each = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    yield Line(text=f"{counts.total()} vectors: {each}. Shown are the largest differences.")


def _refuse_unknown(checks: Collection[str]) -> None:
    for check in checks:
        if check not in CHECKS:
            raise RecipeError(f"no check named {shown(check)}.{did_you_mean(check, CHECKS)}")


def _objective_lines(name: str, findings: Sequence[Finding], seconds: float) -> Iterator[Line]:
    counts = Counter(found.outcome for found in findings)
    text = ", ".join(f"{counts[one]} {one}" for one in ("passed", "left out", "failed") if counts[one])
    yield Line(text=f"{name:22} {text} ({seconds:.1f} s)", good=not counts["failed"])
    for found in findings:
        if found.outcome == "failed":
            yield Line(text=f"    {found.check}: {found.says}", good=False)


def _summary(checked: int, wrong: int, seconds: float) -> Line:
    if wrong:
        return Line(text=f"{wrong} of {checked} break the contract ({seconds:.1f} s).", good=False)
    kept = "1 objective keeps" if checked == 1 else f"{checked} objectives keep"
    return Line(text=f"{kept} the contract ({seconds:.1f} s).")


def _one_thread() -> None:
    """Use one thread: on tensors this small, threads only wait for each other."""
    torch.set_num_threads(1)


def _vector_line(verdict: Verdict) -> str:
    gaps = {"loss": verdict.loss, "gradient": verdict.gradient, "other": verdict.other}
    numbers = "  ".join(f"{kind} {'-' if gap is None else f'{gap:.1e}':7}" for kind, gap in gaps.items())
    detail = "  ".join(part for part in (verdict.note, verdict.by) if part)
    return f"{verdict.outcome:14} {verdict.name:34} {numbers}  {detail}".rstrip()


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"option {shown(text)}: expected key=value, such as clip_high=0.28.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
