"""Which process needs what, whether the cluster can hold it, and the room that is reserved for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    """What one process needs."""

    name: str
    resources: Resources


def choose_device(stage: Stage) -> str:
    """``cpu`` or ``cuda``: what the recipe says, or GPUs if the cluster has any."""
    if stage.cluster.device != "auto":
        return stage.cluster.device
    return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


def needs(stage: Stage, *, device: str, engines: bool) -> list[Need]:
    """One entry per process: the engines, the ranks of the policy, then the roles."""
    cpu = stage.cluster.cpus_per_process
    gpus = 1 if device == "cuda" else 0
    engine: Resources = {"CPU": cpu, "GPU": float(gpus * stage.engines.tensor_parallel)}
    rank: Resources = {"CPU": cpu, "GPU": float(gpus)}
    count = stage.engines.count if engines else 0
    listed = [Need(name=f"engine-{i}", resources=engine) for i in range(count)]
    listed += [Need(name=f"policy-{i}", resources=rank) for i in range(stage.policy.ranks)]
    for name, role in stage.roles.items():
        resources: Resources = {"CPU": cpu, "GPU": float(gpus * role.tensor_parallel)}
        listed += [Need(name=f"{name}-{i}", resources=resources) for i in range(role.count)]
    return [Need(name=n.name, resources={k: v for k, v in n.resources.items() if v}) for n in listed]


def check_fit(listed: Sequence[Need], nodes: Mapping[str, Resources]) -> None:
    """Refuse at once what no arrangement of the processes on the nodes can hold.

    Args:
        listed: what is needed; each must fit on one node.
        nodes: what each node has in all.

    Raises:
        PlacementError: with a table of what is there and what is missing.
    """
    free = {node: dict(resources) for node, resources in nodes.items()}
    homeless = [need for need in sorted(listed, key=_size, reverse=True) if not _place(need, free)]
    if homeless:
        raise PlacementError(
            f"the cluster cannot hold {len(homeless)} of {len(listed)} processes.\n"
            f"{_table(listed, nodes, homeless)}"
        )


async def reserve(listed: Sequence[Need]) -> PlacementGroup:
    """Hold room for every process until ``release``.

    Raises:
        PlacementError: another job holds the room, or it cannot be had at all.
    """
    nodes = _nodes()
    check_fit(listed, nodes)
    group = placement_group([dict(need.resources) for need in listed], strategy="PACK")
    ready = cast("ray.ObjectRef[Any]", group.ready())
    try:
        await asyncio.wait_for(asyncio.wrap_future(ready.future()), RESERVE_DEADLINE_S)
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
    """Give the room back; whatever still runs in it ends."""
    remove_placement_group(group)


def _nodes() -> dict[str, Resources]:
    listed = cast("list[dict[str, Any]]", ray.nodes())
    return {
        f"{n['NodeManagerAddress']}/{n['NodeID'][:6]}": dict(n["Resources"]) for n in listed if n["Alive"]
    }


def _size(need: Need) -> tuple[float, float]:
    return need.resources.get("GPU", 0), need.resources.get("CPU", 0)


def _place(need: Need, free: dict[str, Resources]) -> bool:
    for resources in free.values():
        if all(resources.get(kind, 0) >= amount for kind, amount in need.resources.items()):
            for kind, amount in need.resources.items():
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
    lines.append(f"  Ask for fewer with {fewer}, or add nodes.")
    return "\n".join(lines)
