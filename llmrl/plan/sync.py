"""The time until every engine serves new weights."""

from __future__ import annotations

from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines
from llmrl.plan.placement import Placement
from llmrl.plan.rates import Rates
from llmrl.plan.workload import Workload


def sync_of(workload: Workload, placement: Placement, machines: Machines, rates: Rates) -> Figure:
    """From the end of an update until the engines generate with its weights; 0 where nothing is generated.

    All weights, or the adapters if only these are trained, are made whole where ZeRO 3 has sharded them, and
    go from one rank to every engine, whose host adds adapters to weights of its own. All tensors are loaded.
    """
    if not workload.generated:
        return Figure(value=0.0, unit="s", formula="nothing is generated", inputs={})
    size, tensors = workload.width * workload.trained, workload.architecture.tensors
    whole, way = _made_whole(workload, placement, machines, rates), _way(size, placement, machines, rates)
    merged = _merged(workload, rates)
    return Figure(
        value=rates.sync_s + whole.value + way.value + merged.value + tensors * rates.tensor_s,
        unit="s",
        formula=f"fixed{whole.formula} + {way.formula}{merged.formula} + tensors each",
        inputs={"fixed": rates.sync_s, "S": size, **whole.inputs, **way.inputs, **merged.inputs}
        | {"tensors": tensors, "each": rates.tensor_s},
    )


def _made_whole(workload: Workload, placement: Placement, machines: Machines, rates: Rates) -> Figure:
    """What is sent, and before it all weights once more, for the logprobs that prove it."""
    ranks = placement.ranks
    if placement.zero_stage < 3 or ranks == 1:
        return Figure(value=0.0, unit="s", formula="", inputs={})
    speed = rates.link if ranks <= machines.per_node else rates.network
    everything = workload.width * workload.architecture.parameters
    return Figure(
        value=(workload.width * workload.trained + everything) * (ranks - 1) / ranks / speed,
        unit="s",
        formula=" + (S + w P) (W - 1) / W / speed",
        inputs={"w": workload.width, "P": workload.architecture.parameters, "W": ranks, "speed": speed},
    )


def _merged(workload: Workload, rates: Rates) -> Figure:
    """Weights that an engine's host reads, adds adapters to, and gives to its device."""
    if not workload.adapters:
        return Figure(value=0.0, unit="s", formula="", inputs={})
    everything = workload.width * workload.architecture.parameters
    return Figure(
        value=everything * (1 / rates.copy + 1 / rates.host),
        unit="s",
        formula=" + w P (1 / copy + 1 / host)",
        inputs={
            "w": workload.width,
            "P": workload.architecture.parameters,
            "copy": rates.copy,
            "host": rates.host,
        },
    )


def _way(size: float, placement: Placement, machines: Machines, rates: Rates) -> Figure:
    """Through the memory of the hosts: device to host, for other nodes the object store and the network, host
    to device. A broadcast goes over the links between the devices."""
    across = placement.devices > machines.per_node and machines.nodes > 1
    if placement.broadcast and machines.device.is_gpu:
        name, rate = ("network", rates.network) if across else ("link", rates.link)
        return Figure(value=size / rate, unit="s", formula=f"S / {name}", inputs={name: rate})
    return Figure(
        value=size * (2 / rates.host + across * (2 / rates.copy + 1 / rates.network)),
        unit="s",
        formula=f"S (2 / host{' + 2 / copy + 1 / network' if across else ''})",
        inputs={"host": rates.host, "copy": rates.copy, "network": rates.network},
    )


def swap_of(workload: Workload, placement: Placement, rates: Rates, *, gpu: bool) -> Figure:
    """What a step pays for sharing devices: what a rank keeps leaves for generation, and returns."""
    if not (placement.shared and workload.generated):
        return Figure(value=0.0, unit="s", formula="engines and ranks have devices of their own", inputs={})
    everything = workload.width * workload.architecture.parameters
    states, there = placement.state_bytes(workload.width) * workload.trained, placement.kept(gpu=gpu)
    kept = {
        "weights": ("weights" in there) * everything / (placement.ranks if placement.zero_stage == 3 else 1),
        "optimizer": ("optimizer" in there) * states / (placement.ranks if placement.zero_stage else 1),
        "reference": everything * workload.scores_reference,
    }
    return Figure(
        value=2 * sum(kept.values()) / rates.host,
        unit="s",
        formula="2 (weights + optimizer + reference) / host",
        inputs=kept | {"host": rates.host},
    )
