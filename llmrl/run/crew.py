"""The processes of one stage: engines, policy ranks and roles, started together and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from llmrl.cluster.actor import Actor, Pending, attempted, gathered, spawn
from llmrl.cluster.connection import head_address, process_environment
from llmrl.cluster.placement import Need, choose_device, needs, release, reserve
from llmrl.errors import DisconnectedError, LlmrlError
from llmrl.recipe.schema import Model, Stage
from llmrl.run.devices import Devices, OwnDevices, SharedDevices
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.seat import Seat

ENGINE = "llmrl.rollouts.worker:RolloutWorker"
RANK = "llmrl.policy.worker:PolicyWorker"
ROLE = "llmrl.roles.worker:RoleWorker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Weights under way."""

    version: int
    sent: Sequence[Pending]
    """What each rank does for it; the first one's result is the bundle."""
    copy: Pending | None
    """The bytes, if there are engines that cannot open the bundle's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Handles on the processes, and the calls that go to all of them."""

    engines: Sequence[Actor]
    ranks: Sequence[Actor]
    roles: Mapping[str, Sequence[Actor]]
    """The processes of each role, by its name."""
    devices: Devices
    deadline_s: float
    remote: frozenset[str] = frozenset()
    """Names of the engines on other machines than rank 0's."""

    async def policy(self, method: str, *args: Any) -> list[Any]:
        """The same call on every rank; they run collectives together, so all or none must get it.

        On shared devices the engines sleep from here until weights are published.
        """
        await self.devices.policy()
        pending = [rank.send(method, *args) for rank in self.ranks]
        return await gathered(pending, deadline_s=self.deadline_s)

    async def meet_in(self, folder: Path) -> None:
        """Make sure that every rank finds there what this process writes.

        Raises:
            PlacementError: one does not, and could save no checkpoint.
        """
        with NamedTemporaryFile(dir=folder, prefix=".meeting-") as file:
            await self.policy("find", Path(file.name))

    def post(self, version: int) -> Letter:
        """Have the ranks, whose turn it is, send their present weights before they do anything else."""
        pending = [rank.send("weights", version) for rank in self.ranks]
        # The other ranks help to gather, and have nothing to send.
        copy = self.ranks[0].send("copy_of", pending[0]) if self.remote else None
        return Letter(version=version, sent=pending, copy=copy)

    async def publish(self, letter: Letter) -> WeightBundle:
        """Give the engines weights that are still on their way from the policy; returns what was sent.

        An engine that fails or dies is named when all others have taken them, a rank at once.
        """
        bundle, failed = await self.deliver(letter)
        for error in failed:
            raise error
        return bundle

    async def deliver(self, letter: Letter) -> tuple[WeightBundle, list[BaseException]]:
        """As ``publish``, but only a rank's failure is raised; those of engines are returned.

        Returns:
            What was sent, and why engines did not take it: first who failed, then whom that left alone.
        """
        sending = asyncio.ensure_future(gathered(letter.sent, deadline_s=self.deadline_s))
        taking = asyncio.ensure_future(self._taken(letter))
        try:
            await asyncio.wait({sending, taking}, return_when=asyncio.FIRST_EXCEPTION)
            bundle, *_ = await sending
            failed = await taking
        finally:
            sending.cancel()
            taking.cancel()
        self.ranks[0].send("release", letter.version)
        if letter.copy is not None and failed:
            await letter.copy.result(deadline_s=self.deadline_s)
        # Whoever was left alone in a broadcast is not the one who failed.
        return bundle, sorted(failed, key=lambda error: isinstance(error, DisconnectedError))

    async def _taken(self, letter: Letter) -> list[BaseException]:
        """What went wrong when the engines took the weights."""
        await self.devices.engines()
        loading = [self._load(engine, letter) for engine in self.engines]
        outcomes = await asyncio.gather(*loading, return_exceptions=True)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _load(self, engine: Actor, letter: Letter) -> None:
        copy = letter.copy if engine.name in self.remote else None
        try:
            await engine.send("load", letter.sent[0], copy).result(deadline_s=self.deadline_s)
        except LlmrlError:
            for other in self.engines:
                other.send("hang_up", f"{engine.name} failed")
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What one process runs."""

    path: str
    """``module:Class``."""
    args: tuple[Any, ...]
    is_async: bool = True


def post(need: Need, stage: Stage, *, device: str, seed: int, plugins: Sequence[str]) -> Post:
    """Of the process with this need."""
    match need.kind:
        case "engine":
            return Post(path=ENGINE, args=(stage, device, seed, plugins))
        case "policy":
            return Post(path=RANK, args=(stage, device, need.number, seed, plugins), is_async=False)
        case "role":
            return Post(path=ROLE, args=(stage, need.role, device, plugins))


@asynccontextmanager
async def hired(
    stage: Stage, *, seed: int, plugins: Sequence[str], engines: bool, build: Model | None, logs: Path
) -> AsyncGenerator[Crew]:
    """Start every process of a stage and end them all with the block.

    Args:
        stage: its ``model.path`` is what all of them load.
        seed: of the run.
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
            its = post(need, stage, device=device, seed=seed, plugins=plugins)
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
    """A crew of these processes: everybody starts, and is dismissed at the end.

    Args:
        head: an address that every rank can reach.
    """
    crew = _crew(stage, staff)
    await _start(crew, stage, build, head=head, seed=seed)
    yield await _with_mail(crew, stage, head=head)
    await _dismiss(crew)


def _crew(stage: Stage, staff: Sequence[tuple[Need, Actor]]) -> Crew:
    """The processes by what they are."""
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
    """End in order. All work is done: who cannot close is ended all the same, and said to be so."""
    roles = [role for members in crew.roles.values() for role in members]
    for closing in (roles, crew.engines):
        await attempted(closing, "close", deadline_s=crew.deadline_s)


async def _join(crew: Crew, stage: Stage, *, head: str) -> None:
    """Rank 0 and every worker of every engine become the group that weights are broadcast in."""
    deadline_s, each = crew.deadline_s, stage.engines.tensor_parallel
    address = await crew.ranks[0].call("open_meeting", head, deadline_s=deadline_s)
    first = Seat(address=address, rank=0, size=1 + each * len(crew.engines), deadline_s=deadline_s)
    joining = [crew.ranks[0].send("open_outbox", stage.weights.delta is True, first)]
    for index, engine in enumerate(crew.engines):
        joining.append(engine.send("join", replace(first, rank=1 + each * index)))
    await gathered(joining, deadline_s=deadline_s)


async def _start(crew: Crew, stage: Stage, build: Model | None, *, head: str, seed: int) -> None:
    """Engines load while the ranks meet; nobody waits for anybody else's imports, but for shared devices."""
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
    """On shared devices they start first, as vLLM plans with the memory that is free, and then sleep."""
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
    """Rank 0 is ready to send weights, and it is known which engines cannot read its memory."""
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
