"""What ranks tell each other in a step, by hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrl.plan.hardware import find_machines, read_efficiency
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.training import microbatches, training_of
from llmrl.plan.workload import Workload


def talk_s(work: Workload, place: Placement) -> float:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")
    return training_of(work, place, machines, rates).talk.value * rates.link


def test_zero_2_reduces_every_micro_batch_and_zero_3_gathers_twice_for_each(
    work: Workload, place: Placement
) -> None:
    weights = 2 * work.architecture.parameters * 3 / 4  # of four ranks
    passes = microbatches(work, place)

    found = [talk_s(work, replace(place, zero_stage=stage)) / weights for stage in range(4)]

    assert found == pytest.approx([2, 2, passes + 1, 3 * passes])


def test_zero_3_gathers_for_the_passes_that_score_a_step_too(work: Workload, place: Placement) -> None:
    sharded = replace(place, zero_stage=3)
    weights = 2 * work.architecture.parameters * 3 / 4  # of four ranks
    # 1,024 rows of 600 tokens, 8,192 at once on each of four ranks.
    passes = microbatches(work, sharded)
    assert passes == 19

    plain, scored, scanned, compared = (
        talk_s(replace(work, **more), sharded) / weights  # pyright: ignore[reportArgumentType]
        for more in ({}, {"scores_old": True}, {"scans": 0.5}, {"scores_reference": True})
    )

    assert scored - plain == pytest.approx(passes)
    assert scanned - plain == pytest.approx(passes / 2)
    assert compared == plain  # the reference is whole on every rank


def test_frozen_weights_are_gathered_too_and_never_reduced(work: Workload, place: Placement) -> None:
    adapted, sharded = replace(work, adapters=10_000_000), replace(place, zero_stage=3)
    passes = microbatches(adapted, sharded)

    moved = talk_s(adapted, sharded) / (3 / 4)

    assert moved == pytest.approx(passes * 2 * (2 * work.architecture.parameters + 10_000_000))


def test_offloaded_weights_come_from_the_host_for_every_pass_and_gradients_go_there(
    work: Workload, place: Placement
) -> None:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")
    alone = replace(place, ranks=1, zero_stage=3)
    passes, weights = microbatches(work, alone), 2 * work.architecture.parameters

    resident, offloaded, second = (
        training_of(work, made, machines, rates).talk.value
        for made in (alone, replace(alone, offload="cpu"), replace(alone, zero_stage=2, offload="cpu"))
    )

    assert offloaded == pytest.approx(3 * passes * weights / rates.host)
    assert resident == second == 0  # ZeRO 2 leaves both on the device


def test_ranks_that_share_sequences_exchange_heads_in_every_pass(work: Workload, place: Placement) -> None:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")
    rates, shared = replace(rates, link=1.0), replace(place, sequence_parallel=2, ranks=2, zero_stage=0)

    def exchanged(**more: float) -> float:
        job = replace(work, **more)  # pyright: ignore[reportArgumentType]
        return training_of(job, shared, machines, rates).talk.inputs["exchanged"]

    # 28 query heads and results, 4 key heads and values, of 128 numbers in 28 layers; half stays.
    once = 1024 * 600 / 2 * 2 * 28 * 2 * (28 + 4) * 128 / 2
    assert exchanged() == pytest.approx(2 * once)  # forward and backward
    assert exchanged(recomputes=True) == pytest.approx(3 * once)
    assert exchanged(scores_old=True, scores_reference=True, scans=0.5) == pytest.approx(4.5 * once)
