"""How long weights take to reach the engines, by the way that they go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.plan.hardware import Machines, find_machines, read_efficiency
from llmrl.plan.memory import rank_needs
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.sync import sync_of
from llmrl.plan.workload import Workload


def seconds(work: Workload, place: Placement, machines: Machines, *, link: float, network: float) -> float:
    """With nothing but bytes that take time."""
    rates = estimated(machines.device, read_efficiency(machines.device), dtype=work.dtype)
    rates = replace(rates, link=link, network=network, host=50e9, copy=5e9, sync_s=0.0, tensor_s=0.0)
    return sync_of(work, place, machines, rates).value


def test_a_broadcast_takes_the_links_between_the_gpus_and_rank_0_keeps_the_copy(
    work: Workload, place: Placement
) -> None:
    node, nodes = (find_machines("8xH100", nodes=count, default=8) for count in (1, 2))
    size = 2 * work.architecture.parameters
    broadcast, wide = replace(place, broadcast=True), replace(place, broadcast=True, engines=12)

    assert seconds(work, place, node, link=300e9, network=25e9) == pytest.approx(2 * size / 50e9)
    assert seconds(work, broadcast, node, link=300e9, network=25e9) == pytest.approx(size / 300e9)
    assert seconds(work, wide, nodes, link=300e9, network=25e9) == pytest.approx(size / 25e9)
    more = rank_needs(work, broadcast, node).total - rank_needs(work, place, node).total
    assert more == pytest.approx(size)
