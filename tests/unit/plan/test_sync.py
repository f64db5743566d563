"""How long weights take to reach the engines, by the way that they go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.plan.hardware import Machines, find_machines, read_efficiency
from llmrl.plan.memory import engine_needs, rank_needs
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.sync import swap_of, sync_of
from llmrl.plan.workload import Workload


def seconds(work: Workload, place: Placement, machines: Machines, *, link: float, network: float) -> float:
    """With nothing but bytes that take time."""
    rates = estimated(machines.device, read_efficiency(machines.device), dtype=work.dtype)
    rates = replace(rates, link=link, network=network, host=50e9, copy=5e9, sync_s=0.0, tensor_s=0.0)
    return sync_of(work, place, machines, rates).value


def test_a_broadcast_takes_the_links_between_the_gpus(work: Workload, place: Placement) -> None:
    node, nodes = (find_machines("8xH100", nodes=count, default=8) for count in (1, 2))
    size = 2 * work.architecture.parameters
    broadcast, wide = (replace(place, transport="broadcast", engines=n) for n in (4, 12))

    assert seconds(work, place, node, link=300e9, network=25e9) == pytest.approx(2 * size / 50e9)
    assert seconds(work, broadcast, node, link=300e9, network=25e9) == pytest.approx(size / 300e9)
    assert seconds(work, wide, nodes, link=300e9, network=25e9) == pytest.approx(size / 25e9)


def test_sharded_weights_are_made_whole_before_and_gathered_once_more_for_the_proof(
    work: Workload, place: Placement
) -> None:
    node = find_machines("8xH100", nodes=1, default=8)
    adapted, sharded = replace(work, adapters=10_000_000), replace(place, zero_stage=3)
    size = 2 * work.architecture.parameters

    def more(job: Workload) -> float:
        whole, parts = (seconds(job, made, node, link=300e9, network=25e9) for made in (place, sharded))
        return parts - whole

    assert more(work) == pytest.approx(2 * size * 3 / 4 / 300e9)  # of four ranks
    assert more(adapted) == pytest.approx((size + 2 * 10_000_000) * 3 / 4 / 300e9)


def test_adapters_travel_light_and_are_added_to_all_weights_on_the_engines_host(
    work: Workload, place: Placement
) -> None:
    node = find_machines("8xH100", nodes=1, default=8)
    adapted, size = replace(work, adapters=10_000_000), 2 * work.architecture.parameters

    taken = seconds(adapted, place, node, link=300e9, network=25e9)

    assert taken == pytest.approx(2 * 2 * 10_000_000 / 50e9 + size / 5e9 + size / 50e9)


def test_what_is_offloaded_does_not_leave_a_shared_gpu(work: Workload, place: Placement) -> None:
    machines = find_machines("8xH100", nodes=1, default=8)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype=work.dtype)
    shared, size = replace(place, shared=True, zero_stage=3), work.architecture.parameters

    def moved(stage: Placement, *, gpu: bool = True) -> float:
        return swap_of(work, stage, rates, gpu=gpu).value * rates.host / 2

    assert moved(shared) == pytest.approx((2 + 12) * size / 4)  # of four ranks
    assert moved(replace(shared, offload="cpu")) == 0
    assert moved(replace(shared, zero_stage=2, offload="cpu")) == pytest.approx(2 * size)
    # Without a GPU the host's memory is the device's, from which "cpu" takes nothing.
    assert moved(replace(shared, offload="cpu"), gpu=False) == moved(shared)
    full = replace(work, dtype="float32")
    assert swap_of(full, replace(shared, zero_stage=0), rates, gpu=True).inputs["optimizer"] == 8 * size


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_rank_0_keeps_a_copy_of_every_version_that_waits_for_its_broadcast(
    work: Workload, place: Placement, lag: int
) -> None:
    node = find_machines("8xH100", nodes=1, default=8)
    split = replace(place, lag=lag)
    broadcast = replace(split, transport="broadcast")

    more = rank_needs(work, broadcast, node).total - rank_needs(work, split, node).total
    assert more == pytest.approx((lag + 1) * 2 * work.architecture.parameters)


def test_what_an_engine_opens_on_the_only_gpu_stays_there_beside_both(
    work: Workload, place: Placement
) -> None:
    node = find_machines("8xH100", nodes=1, default=8)
    size = 2 * work.architecture.parameters
    alone = replace(place, engines=1, ranks=1, lag=0, shared=True, gpu_share=1.0)
    two = replace(alone, engines=2, ranks=2)

    assert rank_needs(work, alone, node).parts["copies for engines"].value == size
    assert "copies for engines" not in rank_needs(work, two, node).parts
    adapted = rank_needs(replace(work, adapters=10_000_000), alone, node)
    assert "copies for engines" not in adapted.parts
    limits = [engine_needs(work, place, node, context=600).limit for place in (two, alone)]
    assert limits[0] - limits[1] == pytest.approx(size)
