"""What each process needs, whether the cluster can hold it, and the room that is reserved for it."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,  # pyright: ignore[reportUnknownVariableType]
    remove_placement_group,
)

from llmrl.errors import PlacementError
from llmrl.recipe.schema import Stage

Resources = dict[str, float]

RESERVE_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The kind and resources of one process, and the bundle that it shares."""

    kind: Literal["engine", "policy", "role"]
    number: int
    """Index among the processes of its kind, or of its role."""
    resources: Resources
    bundle: int
    """Bundle number; processes of one bundle run on the same node, where all of them fit at once."""
    role: str = ""
    """Name of its role in ``[roles]``, if that is its kind."""

    @property
    def name(self) -> str:
        """The process's name in messages."""
        return f"{self.role or self.kind}-{self.number}"


def choose_device(stage: Stage) -> str:
    """``cpu`` or ``cuda``: as the recipe says, or GPUs if there are any and torch is no build for CPU."""
    if stage.cluster.device != "auto":
        return stage.cluster.device
    for_cpu = "+cpu" in importlib.metadata.version("torch")
    return "cuda" if _count_gpus() > 0 and not for_cpu else "cpu"


def note_idle_gpus(stage: Stage) -> str:
    """A sentence where ``auto`` leaves GPUs idle, as llmrl is installed for CPU; empty elsewhere."""
    count = _count_gpus()
    if not count or stage.cluster.device != "auto" or choose_device(stage) == "cuda":
        return ""
    return (
        f"the cluster has {count:g} GPU{'s' * (count > 1)} and llmrl is installed for CPU, so it computes "
        "there; run LLMRL_ACCELERATOR=cuda make install to use them, or set cluster.device = 'cpu' to say so"
    )


def gpu_kinds() -> set[str]:
    """Models of the cluster's GPUs in Ray's words, such as ``H100``; Ray does not know all."""
    prefix, held = "accelerator_type:", cast("Resources", ray.cluster_resources())
    return {name.removeprefix(prefix) for name in held if name.startswith(prefix)}


def needs(stage: Stage, *, device: str, engines: bool) -> list[Need]:
    """One entry per process: the engines, the ranks of the policy, then the roles."""
    shared, width = stage.cluster.placement == "shared", stage.engines.tensor_parallel
    count = stage.engines.count if engines else 0

    def resources(devices: int) -> Resources:
        gpus = {"GPU": float(devices)} if device == "cuda" and devices else {}
        return {"CPU": stage.cluster.cpus_per_process} | gpus

    # Ray knows shared devices as the ranks'; an engine beside its ranks is told which ones they are.
    own = resources(0 if shared else width)
    listed = [Need(kind="engine", number=i, resources=own, bundle=i) for i in range(count)]
    for rank in range(stage.policy.ranks):
        bundle = rank // width if shared else count + rank
        listed.append(Need(kind="policy", number=rank, resources=resources(1), bundle=bundle))
    for name, role in stage.roles.items():
        for i in range(role.count):
            its, bundle = resources(role.tensor_parallel), listed[-1].bundle + 1
            listed.append(Need(kind="role", role=name, number=i, resources=its, bundle=bundle))
    return listed


def bundles(listed: Sequence[Need]) -> list[Resources]:
    """The total need of each bundle, by its number."""
    found: dict[int, Resources] = {}
    for need in listed:
        held = found.setdefault(need.bundle, {})
        for kind, amount in need.resources.items():
            held[kind] = held.get(kind, 0) + amount
    return [found[number] for number in sorted(found)]


def check_fit(listed: Sequence[Need], nodes: Mapping[str, Resources]) -> None:
    """Refuse at once a set of processes that no arrangement on the nodes can hold.

    Args:
        listed: the needs; each bundle must fit on one node.
        nodes: the total resources of each node.

    Raises:
        PlacementError: they do not fit; the message has a table of what is there and what is missing.
    """
    free = {node: dict(resources) for node, resources in nodes.items()}
    wanted = sorted(enumerate(bundles(listed)), key=lambda numbered: _size(numbered[1]), reverse=True)
    unplaced = {number for number, bundle in wanted if not _place(bundle, free)}
    if homeless := [need for need in listed if need.bundle in unplaced]:
        raise PlacementError(
            f"the cluster cannot hold {len(homeless)} of {len(listed)} processes.\n"
            f"{_table(listed, nodes, homeless)}"
        )


async def reserve(listed: Sequence[Need]) -> PlacementGroup:
    """Hold room for every process until ``release``.

    Raises:
        PlacementError: another job holds the room, or it does not exist at all.
    """
    nodes = list_nodes()
    check_fit(listed, nodes)
    group = placement_group(bundles(listed), strategy="PACK")
    ready = cast("ray.ObjectRef[Any]", group.ready())
    try:
        async with asyncio.timeout(RESERVE_DEADLINE_S):
            await asyncio.wrap_future(ready.future())
    except TimeoutError:
        table = cast("dict[str, Any]", placement_group_table(group))
        state = table["stats"]["scheduling_state"]
        release(group)
        raise PlacementError(
            f"no room for {len(listed)} processes within {RESERVE_DEADLINE_S:g} s (Ray says {state}); "
            f"another job may hold it.\n{_table(listed, nodes, [])}"
        ) from None
    return group


def release(group: PlacementGroup) -> None:
    """Give the room back; processes that still run in it end."""
    remove_placement_group(group)


def list_nodes() -> dict[str, Resources]:
    """The total resources of each node of the cluster, by its address."""
    listed = cast("list[dict[str, Any]]", ray.nodes())
    return {
        f"{n['NodeManagerAddress']}/{n['NodeID'][:6]}": dict(n["Resources"]) for n in listed if n["Alive"]
    }


def _count_gpus() -> float:
    return cast("Resources", ray.cluster_resources()).get("GPU", 0)


def _size(bundle: Resources) -> tuple[float, float]:
    return bundle.get("GPU", 0), bundle.get("CPU", 0)


def _place(bundle: Resources, free: dict[str, Resources]) -> bool:
    for resources in free.values():
        if all(resources.get(kind, 0) >= amount for kind, amount in bundle.items()):
            for kind, amount in bundle.items():
                resources[kind] -= amount
            return True
    return False


def _table(listed: Sequence[Need], nodes: Mapping[str, Resources], homeless: Sequence[Need]) -> str:
    lines = ["  node                            CPU    GPU"]
    lines += [f"  {node:<28} {r.get('CPU', 0):>6g} {r.get('GPU', 0):>6g}" for node, r in nodes.items()]
    lines += ["  process                      needs"]
    for need in listed:
        amounts = ", ".join(f"{amount:g} {kind}" for kind, amount in need.resources.items())
        lines.append(f"  {need.name:<28} {amounts}{'   <- missing' if need in homeless else ''}")
    fewer = "engines.count, engines.tensor_parallel, policy.ranks or [roles]"
    lines.append(f"  Ask for fewer with {fewer}, share them with cluster.placement, or add nodes.")
    return "\n".join(lines)
