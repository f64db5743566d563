"""The time until every engine serves new weights."""

from __future__ import annotations

from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines
from llmrl.plan.placement import Placement
from llmrl.plan.rates import Rates
from llmrl.plan.workload import Workload


def sync_of(workload: Workload, placement: Placement, machines: Machines, rates: Rates) -> Figure:
    """From the end of an update until the engines generate with its weights; 0 where nothing is generated.

    All weights, or the adapters if only these are trained, go from one rank to every engine through the
    memory of the hosts: device to host, for other nodes the object store and the network, host to device.
    A broadcast goes over the links between the devices.
    """
    if not workload.generated:
        return Figure(value=0.0, unit="s", formula="nothing is generated", inputs={})
    size = workload.width * (workload.adapters or workload.architecture.parameters)
    across = placement.devices > machines.per_node and machines.nodes > 1
    if placement.broadcast and machines.device.is_gpu:
        rate = rates.network if across else rates.link
        return Figure(
            value=rates.sync_s + size / rate + workload.architecture.tensors * rates.tensor_s,
            unit="s",
            formula=f"fixed + S / {'network' if across else 'link'} + tensors each",
            inputs={
                "fixed": rates.sync_s,
                "S": size,
                "network" if across else "link": rate,
                "tensors": workload.architecture.tensors,
                "each": rates.tensor_s,
            },
        )
    hops = 2 / rates.host + across * (2 / rates.copy + 1 / rates.network)
    return Figure(
        value=rates.sync_s + size * hops + workload.architecture.tensors * rates.tensor_s,
        unit="s",
        formula=f"fixed + S (2 / host{' + 2 / copy + 1 / network' if across else ''}) + tensors each",
        inputs={
            "fixed": rates.sync_s,
            "S": size,
            "host": rates.host,
            "copy": rates.copy,
            "network": rates.network,
            "tensors": workload.architecture.tensors,
            "each": rates.tensor_s,
        },
    )


def swap_of(workload: Workload, placement: Placement, rates: Rates) -> Figure:
    """What a step pays for sharing devices: what a rank keeps leaves for generation, and returns."""
    if not (placement.shared and workload.generated):
        return Figure(value=0.0, unit="s", formula="engines and ranks have devices of their own", inputs={})
    everything = workload.width * workload.architecture.parameters
    states = (
        0 if placement.offload != "none" else 12 * (workload.adapters or workload.architecture.parameters)
    )
    size = states / (placement.ranks if placement.zero_stage else 1)
    size += everything / (placement.ranks if placement.zero_stage == 3 else 1)
    size += everything * workload.scores_reference
    return Figure(
        value=2 * size / rates.host,
        unit="s",
        formula="2 (weights + optimizer + reference of a rank) / host",
        inputs={"bytes": size, "host": rates.host},
    )
