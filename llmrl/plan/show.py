"""A plan for people, as tables and sentences, and for programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmrl.plan.estimate import Estimate
from llmrl.plan.figure import Figure, amount
from llmrl.plan.plan import Plan
from llmrl.plan.rollout import generation_figures

BETTER = 1.05
"""A placement that is faster by less than this factor is no advice: the plan is not that exact."""


def show_plan(plans: list[Plan], *, explain: bool, dollars_per_hour: float | None) -> RenderableType:
    """Every stage: what is assumed, what each process needs, how long each part takes, what is better."""
    parts: list[RenderableType] = []
    for plan in plans:
        parts += [Text(f"stage {plan.stage}", style="bold")]
        parts += [Padding(sentence, (0, 0, 0, 2)) for sentence in (_model(plan), *plan.assumed)]
        parts += [
            Text(),
            _memory_table(plan, explain=explain),
            Text(),
            _time_table(plan, explain=explain),
            Text(),
        ]
        if plan.recipe.generation is not None:
            parts += [_placement_table(plan), Text()]
        if plan.reasons:
            parts += [_reason_table(plan, explain=explain), Text()]
        parts += [Padding(sentence, (0, 0, 0, 2)) for sentence in verdicts(plan, dollars_per_hour)]
        parts.append(Text())
    return Group(*parts)


def plan_json(plans: list[Plan], dollars_per_hour: float | None) -> str:
    """The same for programs: seconds, bytes and tokens, each with its reason."""
    return json.dumps({plan.stage: _stage_json(plan, dollars_per_hour) for plan in plans}, indent=1)


def verdicts(plan: Plan, dollars_per_hour: float | None) -> Iterator[str]:
    """What the numbers come to, in sentences."""
    own, job = plan.recipe, plan.job
    yield (
        f"This recipe: {amount(own.step_s, 's')} a step, {amount(_speed(plan, own), 'tokens/s')}; "
        f"{_binding(own)}"
    )
    if own.generation is not None and plan.synchronous is not None and own.placement.lag:
        gain = plan.synchronous.step_s / own.step_s
        yield (
            f"Lag: tokens are {own.pace.mean_lag:.1f} versions behind on average, never more than "
            f"{own.placement.lag}; with engines.max_lag = 0 a step would take {gain:.2f} times as long."
        )
    could_lag = own.generation is not None and not own.placement.shared
    if could_lag and own.pace.enough_lag > own.placement.lag:
        yield f"No side would wait for the other from engines.max_lag = {own.pace.enough_lag} on."
    yield from _advice(plan)
    seconds = own.step_s * plan.steps
    spent = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:,.1f} minutes"
    dollars = seconds / 3600 * job.machines.devices * (dollars_per_hour or 0)
    cost = f", {dollars:,.2f} dollars" if dollars_per_hour else ""
    yield f"The whole stage, {plan.steps:,} steps: {spent}{cost}, without evaluation and start."


def _advice(plan: Plan) -> Iterator[str]:
    best, shared = plan.best, plan.shared
    if best is None:
        return
    faster = min((made for made in (best, shared) if made), key=lambda made: made.step_s)
    if plan.recipe.step_s / faster.step_s >= BETTER:
        changed = {k: v for k, v in faster.placement.keys.items() if v != plan.recipe.placement.keys[k]}
        keys = " ".join(f"{key}={value}" for key, value in changed.items())
        yield f"Faster on the same devices, {amount(faster.step_s, 's')} a step: {keys}"
    if shared is None:
        return
    if shared.step_s / best.step_s >= BETTER:
        most = max(plan.reasons, key=lambda name: plan.reasons[name].value)
        yield (
            f"Asynchronous beats synchronous in turn on all devices by {shared.step_s / best.step_s:.2f}, "
            f"mostly by: {most}."
        )
    else:
        yield (
            f"Asynchronous does not beat synchronous in turn on all devices here: it takes "
            f"{best.step_s / shared.step_s:.2f} of its time."
        )


def _binding(made: Estimate) -> str:
    texts = {
        "generation": "generation binds, the ranks wait.",
        "training": "training binds, the engines wait.",
        "lag": "the lag binds: both sides wait for groups that may not start yet.",
        "the sum of both": "generation and training take turns.",
    }
    return texts[made.pace.binds] if made.generation is not None else "nothing is generated."


def _speed(plan: Plan, made: Estimate) -> float:
    return plan.job.workload.tokens / made.step_s


def _model(plan: Plan) -> str:
    shape, work = plan.job.workload.architecture, plan.job.workload
    experts = f", {shape.experts_per_token} of {shape.experts} experts a token" if shape.experts > 1 else ""
    return (
        f"{shape.kind} with {_count(shape.parameters)} parameters, {_count(shape.matrices)} of them in "
        f"matrix products{experts}, {shape.kv_bytes(work.width):,} bytes of KV cache a token "
        f"in {work.dtype}; {work.samples:,} responses a step, which trains on {work.tokens:,.0f} tokens."
    )


def _count(parameters: int) -> str:
    size = next((size for size in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if parameters >= size[0]), (1.0, ""))
    return f"{parameters / size[0]:.2f} {size[1]}".strip()


def _table(*columns: str, explain: bool, title: str) -> Table:
    names = [*columns, "why"] if explain else columns
    look: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    return Table(*names, title=title, min_width=len(title), **look)


def _row(table: Table, cells: list[str], figure: Figure, *, explain: bool) -> None:
    table.add_row(*cells, str(figure), *([Text(figure.because, style="dim")] if explain else []))


def _memory_table(plan: Plan, *, explain: bool) -> Table:
    table = _table("process", "part", "memory", explain=explain, title="memory of one device")
    for needs in plan.recipe.needs:
        for name, part in needs.parts.items():
            _row(table, [needs.role, name], part, explain=explain)
        total = Figure(value=needs.total, unit="bytes", formula="the sum", inputs={})
        _row(table, [needs.role, f"in all, of {amount(needs.limit, 'bytes')}"], total, explain=explain)
    for name, figure in (("KV cache", plan.recipe.cache), ("at once", plan.recipe.slots)):
        if figure is not None and name not in plan.recipe.needs[0].parts:
            _row(table, ["engine", name], figure, explain=explain)
    return table


def figures(made: Estimate) -> dict[str, Figure]:
    """Every time of a placement by name."""
    training = made.training
    generation = generation_figures(made.generation) if made.generation is not None else {}
    named = {
        "generation, alone": generation.get("alone"),
        "generation, among others": generation.get("flowing"),
        "its tail": generation.get("tail"),
        "generation, with a sync": made.pace.generating if made.placement.update != "keep" else None,
        "old logprobs": training.old,
        "reference logprobs": training.reference,
        "forward and backward": training.passes,
        "optimizer": training.update,
        "between ranks": training.talk,
        "weight sync": made.sync,
        "out and in": made.swap if made.swap.value else None,
        "step": made.pace.step,
    }
    return {name: figure for name, figure in named.items() if figure is not None}


def _time_table(plan: Plan, *, explain: bool) -> Table:
    table = _table("part", "time", explain=explain, title="time of one step")
    for name, figure in figures(plan.recipe).items():
        _row(table, [name], figure, explain=explain)
    return table


def _named(plan: Plan) -> dict[str, Estimate]:
    named = {
        "this recipe": plan.recipe,
        "with max_lag = 0": plan.synchronous,
        "best split": plan.best,
        "all in turn": plan.shared,
    }
    return {name: made for name, made in named.items() if made is not None}


def _placement_table(plan: Plan) -> Table:
    columns = ("", "engines", "ranks", "ZeRO", "max_lag", "step", "tokens/s", "binds", "mean lag")
    table = _table(*columns, explain=False, title="placements")
    table.columns[0].no_wrap = True
    for name, made in _named(plan).items():
        place = made.placement
        wide = f" x {place.tensor_parallel}" if place.tensor_parallel > 1 else ""
        table.add_row(
            name,
            f"{place.engines}{wide}",
            str(place.ranks),
            str(place.zero_stage),
            str(place.lag),
            str(made.pace.step),
            f"{_speed(plan, made):,.0f}",
            made.pace.binds,
            f"{made.pace.mean_lag:.1f}",
        )
    return table


def _reason_table(plan: Plan, *, explain: bool) -> Table:
    title = "what the best split saves over taking turns on all devices"
    table = _table("by", "a step", explain=explain, title=title)
    for name, figure in plan.reasons.items():
        _row(table, [name], figure, explain=explain)
    return table


def _stage_json(plan: Plan, dollars_per_hour: float | None) -> dict[str, Any]:
    return {
        "assumed": plan.assumed,
        "placements": {name: _estimate_json(plan, made) for name, made in _named(plan).items()},
        "saved": {name: _figure_json(figure) for name, figure in plan.reasons.items()},
        "verdicts": list(verdicts(plan, dollars_per_hour)),
    }


def _estimate_json(plan: Plan, made: Estimate) -> dict[str, Any]:
    return {
        "keys": dict(made.placement.keys),
        "tokens_per_s": _speed(plan, made),
        "binds": made.pace.binds,
        "enough_lag": made.pace.enough_lag,
        "mean_lag": made.pace.mean_lag,
        "memory": {
            needs.role: {"limit": needs.limit}
            | {name: _figure_json(part) for name, part in needs.parts.items()}
            for needs in made.needs
        },
        "time": {name: _figure_json(figure) for name, figure in figures(made).items()},
    }


def _figure_json(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "unit": figure.unit, "because": figure.because}
