"""How the processes of a stage start together, find each other, and end together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmrl.cluster.actor import Actor, Pending, attempted, gathered, spawn
from llmrl.cluster.connection import head_address, process_environment
from llmrl.cluster.placement import Need, choose_device, needs, release, reserve
from llmrl.recipe.schema import Model, Stage
from llmrl.run.crew import Crew
from llmrl.run.devices import OwnDevices, SharedDevices
from llmrl.weights.seat import Seat

ENGINE = "llmrl.rollouts.worker:RolloutWorker"
RANK = "llmrl.policy.worker:PolicyWorker"
ROLE = "llmrl.roles.worker:RoleWorker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The class that one process runs, with its arguments."""

    path: str
    """Import path of the class, ``module:Class``."""
    args: tuple[Any, ...]
    is_async: bool = True


def program(need: Need, stage: Stage, *, device: str, seed: int, plugins: Sequence[str]) -> Program:
    """The program of the process with this need."""
    match need.kind:
        case "engine":
            return Program(path=ENGINE, args=(stage, device, seed, plugins))
        case "policy":
            return Program(path=RANK, args=(stage, device, need.number, seed, plugins), is_async=False)
        case "role":
            return Program(path=ROLE, args=(stage, need.role, device, plugins))


@asynccontextmanager
async def hired(
    stage: Stage, *, seed: int, plugins: Sequence[str], engines: bool, build: Model | None, logs: Path
) -> AsyncGenerator[Crew]:
    """Start every process of a stage and end them all with the block.

    Args:
        stage: the stage; every process loads its ``model.path``.
        seed: the run's seed.
        plugins: modules that every process imports.
        engines: whether anything is generated.
        logs: folder for the output of each process.
        build: the model to build at ``model.path`` first.
    """
    device = choose_device(stage)
    listed = needs(stage, device=device, engines=engines)
    group = await reserve(listed)
    env = process_environment(stage.cluster, device=device)
    staff: list[tuple[Need, Actor]] = []
    try:
        for need in listed:
            its = program(need, stage, device=device, seed=seed, plugins=plugins)
            actor = spawn(
                its.path,
                *its.args,
                name=need.name,
                group=group,
                bundle=need.bundle,
                resources=need.resources,
                env=env,
                is_async=its.is_async,
                log=logs / f"{need.name}.log",
            )
            staff.append((need, actor))
        async with at_work(stage, staff, head=head_address(), seed=seed, build=build) as crew:
            yield crew
    finally:
        for _, actor in staff:
            actor.kill()
        release(group)


@asynccontextmanager
async def at_work(
    stage: Stage, staff: Sequence[tuple[Need, Actor]], *, head: str, seed: int, build: Model | None
) -> AsyncGenerator[Crew]:
    """Start these processes as a crew, and close them with the block.

    Args:
        head: an address that every rank can reach.
    """
    crew = _crew(stage, staff)
    await _start(crew, stage, build, head=head, seed=seed)
    yield await _with_mail(crew, stage, head=head)
    await _dismiss(crew)


def _crew(stage: Stage, staff: Sequence[tuple[Need, Actor]]) -> Crew:
    """Sort the processes into a crew by their kind."""
    engines = [actor for need, actor in staff if need.kind == "engine"]
    ranks = [actor for need, actor in staff if need.kind == "policy"]
    shared, deadline_s = stage.cluster.placement == "shared", stage.cluster.call_deadline_s
    return Crew(
        engines=engines,
        ranks=ranks,
        roles={name: [actor for need, actor in staff if need.role == name] for name in stage.roles},
        devices=SharedDevices(engines, ranks, deadline_s=deadline_s) if shared else OwnDevices(),
        deadline_s=deadline_s,
    )


async def _dismiss(crew: Crew) -> None:
    """Close roles, then engines; a process that fails to close is logged, then killed."""
    roles = [role for members in crew.roles.values() for role in members]
    for closing in (roles, crew.engines):
        await attempted(closing, "close", deadline_s=crew.deadline_s)


async def _join(crew: Crew, stage: Stage, *, head: str) -> None:
    """Join rank 0 and every worker of every engine into the group that weights are broadcast in."""
    deadline_s, each = crew.deadline_s, stage.engines.tensor_parallel
    address = await crew.ranks[0].call("open_meeting", head, deadline_s=deadline_s)
    first = Seat(address=address, rank=0, size=1 + each * len(crew.engines), deadline_s=deadline_s)
    joining = [crew.ranks[0].send("open_outbox", stage.weights.delta is True, first)]
    for index, engine in enumerate(crew.engines):
        joining.append(engine.send("join", replace(first, rank=1 + each * index)))
    await gathered(joining, deadline_s=deadline_s)


async def _start(crew: Crew, stage: Stage, build: Model | None, *, head: str, seed: int) -> None:
    """Start all processes, then introduce engines to roles; imports overlap, except on shared devices."""
    deadline_s = stage.cluster.start_deadline_s
    address = await crew.ranks[0].call("open_meeting", head, deadline_s=deadline_s)
    if build is not None:
        await crew.ranks[0].call("prepare", build, stage.model.folder, seed, deadline_s=deadline_s)
    starting = await _engines_start(crew, stage)
    starting += [rank.send("start", address) for rank in crew.ranks]
    starting += [role.send("start") for members in crew.roles.values() for role in members]
    await gathered(starting, deadline_s=deadline_s)
    await gathered([engine.send("meet", crew.roles) for engine in crew.engines], deadline_s=deadline_s)


async def _engines_start(crew: Crew, stage: Stage) -> list[Pending]:
    """Start the engines; on shared devices before the ranks, as vLLM plans with free memory, then sleep."""
    if stage.cluster.placement == "split":
        return [engine.send("start") for engine in crew.engines]
    deadline_s, width = stage.cluster.start_deadline_s, stage.engines.tensor_parallel
    devices = await gathered([rank.send("devices") for rank in crew.ranks], deadline_s=deadline_s)
    seen = [",".join(devices[place * width : (place + 1) * width]) for place in range(len(crew.engines))]
    starting = [engine.send("start", its) for engine, its in zip(crew.engines, seen, strict=True)]
    await gathered(starting, deadline_s=deadline_s)
    await gathered([engine.send("sleep") for engine in crew.engines], deadline_s=deadline_s)
    return []


async def _with_mail(crew: Crew, stage: Stage, *, head: str) -> Crew:
    """Make rank 0 ready to send weights, and find the engines that cannot read its memory."""
    if not crew.engines:
        return crew
    table = stage.weights
    if table.transport == "broadcast":
        await _join(crew, stage, head=head)
        return crew
    asked = [process.send("machine") for process in (crew.ranks[0], *crew.engines)]
    home, *machines = await gathered(asked, deadline_s=crew.deadline_s)
    away = {engine.name for engine, its in zip(crew.engines, machines, strict=True) if its != home}
    pays = bool(table.folder or away) if table.delta == "auto" else table.delta
    deltas = pays and stage.model.lora is None
    await crew.ranks[0].call("open_outbox", deltas, deadline_s=crew.deadline_s)
    return replace(crew, remote=frozenset() if table.folder else frozenset(away))
