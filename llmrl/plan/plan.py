"""The plan of a stage: assumptions, the recipe's own placement, better ones, and why these are better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmrl.errors import PlacementError, RecipeError, shown
from llmrl.footprint import CUDA_RESIDUE
from llmrl.objectives.algorithm import responses_together
from llmrl.plan.architecture import Architecture, read_architecture
from llmrl.plan.calibration import calibrated
from llmrl.plan.estimate import Estimate, Job, estimate
from llmrl.plan.figure import Figure, amount
from llmrl.plan.hardware import CPU, Machines, find_machines, read_efficiency
from llmrl.plan.lengths import Lengths, assumed, read_lengths
from llmrl.plan.memory import Needs, opponents_caches
from llmrl.plan.placement import Placement, placement_of
from llmrl.plan.rates import estimated
from llmrl.plan.split import best_shared, best_split, smallest_change
from llmrl.plan.workload import workload_of
from llmrl.recipe.schema import Recipe, Stage

CV = 0.6
"""Spread of lengths that is assumed unless ``--cv`` says another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a recipe does not say."""

    gpus: str | None = None
    """Such as ``8xH100``; by default the processes of the recipe on CPU cores."""
    nodes: int = 1
    mean: float | None = None
    """Tokens of a response; by default half of ``rollouts.max_tokens``."""
    cv: float = CV
    lengths: Path | None = None
    """A file of measured lengths instead."""
    mean_prompt: float | None = None
    """Tokens of a prompt; by default half of ``prompts.max_tokens``."""
    config: Path | None = None
    """A config.json instead of that in ``model.path``."""
    calibration: Path | None = None
    """What ``--measure`` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One stage, planned."""

    stage: str
    steps: int
    job: Job
    assumed: tuple[str, ...]
    """The assumptions, in sentences."""
    recipe: Estimate
    """The placement that the recipe asks for."""
    synchronous: Estimate | None
    """The same with ``engines.max_lag = 0``; None where nothing is generated, or all take turns anyway."""
    best: Estimate | None
    """The fastest asynchronous split of all devices; None if nothing fits."""
    shared: Estimate | None
    """The synchronous placement: engines and ranks in turn on all devices."""

    @property
    def reasons(self) -> Mapping[str, Figure]:
        """Seconds of a step that the best split saves over sharing, by where they are from; they add up."""
        if self.best is None or self.shared is None or self.shared.generation is None:
            return {}
        turn, split = self.shared, self.best
        generation = turn.generation
        assert generation is not None  # promised by the line above
        # With "drain" a split waits for the tail before every sync, and hides neither.
        hides = split.placement.update != "drain"
        tail = hides * (generation.alone_s - generation.flowing_s)
        old = turn.training.old.value - split.training.old.value
        moved = turn.swap.value + hides * turn.sync.value
        rest = turn.step_s - split.step_s - tail - moved - old
        return {
            "tail": Figure(
                value=tail,
                unit="s",
                formula="generation alone - generation among others"
                if hides
                else "engines.update = 'drain' waits for it before every sync",
                inputs={"alone": generation.alone_s, "among others": generation.flowing_s},
            ),
            "scaling": Figure(
                value=rest,
                unit="s",
                formula="what is left: how two smaller groups scale and come out even, what waits for lag",
                inputs={"in turn": turn.step_s, "split": split.step_s},
            ),
            "offload": Figure(
                value=moved,
                unit="s",
                formula="optimizer states out and in"
                + (" + weights from ranks to engines, which a split hides" if hides else ""),
                inputs={"out and in": turn.swap.value, "weights": turn.sync.value},
            ),
            "old pass": Figure(
                value=old,
                unit="s",
                formula="scores of the step before its first update, which this objective needs either way",
                inputs={"in turn": turn.training.old.value, "split": split.training.old.value},
            ),
            "precision": Figure(
                value=0.0,
                unit="s",
                formula="model.dtype is that of engines and ranks; each side's own width counts as scaling",
                inputs={},
            ),
        }


def make_plan(recipe: Recipe, assumptions: Assumptions) -> list[Plan]:
    """The plan of every stage; its plugins must have been imported.

    Raises:
        PlacementError: a stage does not fit; the sentence has the smallest change that would.
        RecipeError: an assumption that cannot be.
        ModelError: no config here, or a model whose parameters the plan cannot count.
    """
    architecture = read_architecture(recipe.stages[0].model, config=assumptions.config)
    return [_plan(stage, architecture, assumptions) for stage in recipe.stages]


def make_job(stage: Stage, architecture: Architecture, assumptions: Assumptions) -> Job:
    """What a stage has to do and on what, at the rates of the data sheet."""
    machines = _machines(stage, assumptions)
    prompt = _prompt_tokens(stage, assumptions)
    return Job(
        workload=workload_of(stage, architecture, _lengths(stage, assumptions), prompt_tokens=prompt),
        machines=machines,
        rates=estimated(machines.device, read_efficiency(machines.device), dtype=stage.model.dtype),
        context=stage.model.context_tokens,
        connected=stage.model.context_tokens * responses_together(stage),
    )


def refuse_what_cannot_fit(job: Job, made: Estimate) -> None:
    """Raise if a device is too small, there are too few, or they cannot be dealt out.

    Raises:
        PlacementError: with the sizes, the keys, and the smallest change that would fit.
    """
    place, devices = made.placement, job.machines.devices
    unit = "GPUs" if job.machines.device.is_gpu else "CPU cores"
    if place.devices > devices:
        raise PlacementError(
            f"{_counted(place)} {unit}, and --gpus says {devices}; {_fewer(place)}, or add {unit}."
        )
    _refuse_uneven_heads(job, place)
    if not made.placed:
        raise PlacementError(
            f"{_counted(place)} {unit} are there, but {job.machines.per_node} on each node, and no engine or "
            f"role goes over two nodes; lower {place.widest}, or use larger nodes."
        )
    _refuse_small_cache(job, made)
    short = next((needs for needs in made.needs if not needs.fits), None)
    if short is None:
        return
    where = f"one {job.machines.device.name}" if job.machines.device.is_gpu else "this machine"
    raise PlacementError(
        f"{_role(short)} needs {amount(short.total, 'bytes')} and may use {amount(short.limit, 'bytes')} of "
        f"{where} ({_parts(short)}); {_cure(job, place, short)}."
    )


def _cure(job: Job, place: Placement, short: Needs) -> str:
    if change := smallest_change(job, place):
        return f"{change[0]} would fit"
    if not job.machines.device.is_gpu:
        return "no change of these keys would fit; use fewer processes, or a machine with more memory"
    if short.role == "engine" and place.one_gpu_each:
        fewer = "lower engines.max_sequences, or " if "opponent's caches" in short.parts else ""
        return f"more GPUs would not help, as such an engine has one; {fewer}use larger ones"
    if "reference" in short.parts and short.parts["reference"].value > short.limit:
        return "more GPUs would not help, as each policy rank holds the whole reference; use larger ones"
    return "no change of these keys would fit; use more or larger GPUs"


def _refuse_uneven_heads(job: Job, place: Placement) -> None:
    shape = job.workload.architecture
    keys = {"policy.sequence_parallel": place.sequence_parallel}
    if place.engines:
        keys["engines.tensor_parallel"] = place.tensor_parallel
    for key, count in keys.items():
        if count not in shape.shares:
            raise PlacementError(
                f"{key}: {count} devices cannot share the {shape.heads} attention heads of this model, which "
                f"have {shape.kv_heads} key heads; use one of {', '.join(map(str, shape.shares))}."
            )


def _counted(place: Placement) -> str:
    others = f" + {place.roles} of roles" if place.roles else ""
    if place.shared:
        return f"policy.ranks = {place.ranks}{others} = {place.devices}"
    if not place.engines:
        return f"policy.ranks = {place.ranks}{others} = {place.devices}"
    return (
        f"engines.count x engines.tensor_parallel + policy.ranks = {place.engines} x "
        f"{place.tensor_parallel} + {place.ranks}{others} = {place.devices}"
    )


def _fewer(place: Placement) -> str:
    if place.shared:
        return "lower policy.ranks and engines.count"
    if not place.engines:
        return "lower policy.ranks"
    return "lower one of them, share them with cluster.placement = 'shared'"


def _refuse_small_cache(job: Job, made: Estimate) -> None:
    if made.holds_a_response or made.cache is None or made.response is None or not made.needs[0].fits:
        return
    raise PlacementError(
        f"engines.kv_cache_mib: {made.cache.value / 2**20:,.0f} MiB hold less than one response of "
        f"model.context_tokens = {job.context:,}; use at least {math.ceil(made.response.value / 2**20):,}."
    )


def _plan(stage: Stage, architecture: Architecture, assumptions: Assumptions) -> Plan:
    job = make_job(stage, architecture, assumptions)
    rates = calibrated(
        job.rates, assumptions.calibration, device=job.machines.device, dtype=stage.model.dtype
    )
    job = replace(job, rates=rates)
    place = placement_of(stage)
    own = estimate(job, place)
    refuse_what_cannot_fit(job, own)
    generates = own.generation is not None
    searches = generates and job.machines.devices - place.roles > 1
    return Plan(
        stage=stage.name,
        steps=stage.optimizer.steps,
        job=job,
        assumed=(*_said(job, assumptions), *_room_for_opponents(job, place)),
        recipe=own,
        synchronous=estimate(job, replace(place, lag=0)) if generates and not place.shared else None,
        best=best_split(job, place) if searches else None,
        shared=best_shared(job, place) if searches else None,
    )


def _machines(stage: Stage, assumptions: Assumptions) -> Machines:
    processes = placement_of(stage).devices
    if assumptions.gpus is None and assumptions.nodes != 1:
        raise RecipeError(
            f"--nodes: got {assumptions.nodes} without --gpus, and without it the plan is for this machine; "
            "say what each node has, such as --gpus 8xH100."
        )
    if assumptions.gpus is not None:
        return find_machines(assumptions.gpus, nodes=assumptions.nodes, default=processes)
    if stage.cluster.device == "cuda":
        raise PlacementError("cluster.device = 'cuda': say which GPUs with --gpus, such as --gpus 8xH100.")
    return find_machines(CPU, nodes=1, default=processes)


def _lengths(stage: Stage, assumptions: Assumptions) -> Lengths:
    cap = stage.rollouts.max_tokens
    if assumptions.lengths is not None:
        _refuse_both(assumptions)
        return read_lengths(assumptions.lengths, cap=cap)
    mean = max(1.0, cap / 2) if assumptions.mean is None else assumptions.mean
    half = ", half of rollouts.max_tokens (--mean)" if assumptions.mean is None else ""
    said = f"{mean:,.0f} tokens on average{half}, lognormal with cv {assumptions.cv:g} (--cv), cut at {cap:,}"
    return assumed(mean, cv=assumptions.cv, cap=cap, said=said)


def _refuse_both(assumptions: Assumptions) -> None:
    """Refuse a mean or a spread beside a measured distribution, which has its own."""
    spread = assumptions.cv if assumptions.cv != CV else None
    for option, value in (("--mean", assumptions.mean), ("--cv", spread)):
        if value is not None:
            raise RecipeError(
                f"{option}: got {value:g} together with --lengths {shown(str(assumptions.lengths), 300)}, "
                "which says how long responses are; leave one of the two out."
            )


def _prompt_tokens(stage: Stage, assumptions: Assumptions) -> float:
    mean, most = assumptions.mean_prompt, stage.prompts.max_tokens
    if mean is None:
        return most / 2
    if not 1 <= mean <= most:
        raise RecipeError(
            f"--mean-prompt: expected tokens between 1 and prompts.max_tokens = {most}, got {mean:g}."
        )
    return mean


def _said(job: Job, assumptions: Assumptions) -> tuple[str, ...]:
    half = "" if assumptions.mean_prompt is not None else ", half of prompts.max_tokens (--mean-prompt)"
    return (
        f"{job.machines}: {job.rates.said}.",
        f"Responses: {job.workload.lengths.said}.",
        f"Prompts of {job.workload.prompt_tokens:,.0f} tokens{half}.",
    )


def _room_for_opponents(job: Job, place: Placement) -> Iterator[str]:
    """Say what vLLM must leave free on a GPU, and cannot know of."""
    beside = opponents_caches(job.workload, place)
    device = job.machines.device
    room = 1 - (beside.value + CUDA_RESIDUE) / device.memory if device.is_gpu else 1.0
    if place.engine == "vllm" and beside.value and place.kv_cache_mib is None and room < place.gpu_share:
        yield (
            f"Caches of the opponent take up to {beside} of an engine's GPU beside vLLM's share: "
            f"engines.gpu_memory_utilization is taken for {math.floor(100 * room) / 100:.2f}, and the recipe "
            "should say so."
        )


def _role(needs: Needs) -> str:
    return {"rank": "a policy rank", "engine": "an engine"}[needs.role]


def _parts(needs: Needs) -> str:
    return ", ".join(f"{name} {amount(part.value, 'bytes')}" for name, part in needs.parts.items())
