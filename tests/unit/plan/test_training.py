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
