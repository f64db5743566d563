"""What a calibration makes of measured times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.errors import RecipeError
from llmrl.plan.architecture import architecture_of
from llmrl.plan.calibration import Calibration, calibrated, read_calibration
from llmrl.plan.estimate import Job
from llmrl.plan.hardware import find_machines, read_efficiency
from llmrl.plan.measure import check_device, decode_rates, demands, fitted, train_rate, updates_of
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.rollout import generation_of
from llmrl.plan.training import training_of
from llmrl.plan.workload import Workload
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Optimizer
from llmrl.rollouts.rollout import Rollout, RolloutGroup

FOUND = Calibration(
    device="cpu",
    dtype="float32",
    said="today",
    read=1e10,
    decode=2e10,
    step_s=0.001,
    sequence_s=0.0001,
    cache=3e9,
    prefill=4e10,
    train=5e10,
    score=6e10,
    update_s=0.02,
    sync_s=0.03,
    contention=1.5,
)


def group_of(prompt: int, lengths: list[int]) -> RolloutGroup:
    def one(size: int) -> Rollout:
        return Rollout(
            tokens=np.zeros(size, np.int32),
            logp=np.zeros(size, np.float32),
            version=np.zeros(size, np.int32),
            trained=np.ones(size, np.bool_),
            turn=np.zeros(size, np.int32),
            stop="stop",
            text="",
        )

    asked = Prompt(id="p", tokens=np.zeros(prompt, np.int32), text="", answer=None, source="p")
    return RolloutGroup(ordinal=0, prompt=asked, rollouts=tuple(one(size) for size in lengths))


def test_what_responses_demand_of_an_engine_counted_by_hand() -> None:
    steps, sequences, context, prompts = demands([group_of(10, [4, 6])], prompts_once=False)

    assert (steps, sequences, prompts) == (6, 10, 20)
    assert context == (10 * 4 + 8) + (10 * 6 + 18)


def test_prompts_are_counted_in_a_measurement_as_in_a_plan(work: Workload, place: Placement) -> None:
    groups = [group_of(100, [500] * 8) for _ in range(128)]  # a step of the workload

    for gpus, once in (("8xH100", True), ("cpu", False)):
        machines = find_machines(gpus, nodes=1, default=8)
        rates = estimated(machines.device, read_efficiency(machines.device), dtype=work.dtype)
        prefill = generation_of(work, replace(place, engines=1), machines, rates, slots=256).prefill
        tokens = demands(groups, prompts_once=once)[3]
        assert prefill == pytest.approx(tokens * 2 * work.architecture.matrices / rates.prefill)


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_a_plan_at_measured_rates_takes_the_time_that_was_measured(
    kind: str, work: Workload, place: Placement
) -> None:
    machines = find_machines("8xH100", nodes=1, default=8)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")
    work = replace(work, architecture=architecture_of({"model_type": kind}, where="here"))
    job = Job(workload=work, machines=machines, rates=rates, context=1024, connected=1024)
    known = generation_of(work, place, machines, rates, slots=256)
    # A step and a sequence take twice what the data sheet says; a token of a prompt 3 us, a FLOP 1e-15 s.
    decode = np.array([2 * known.t0, 2 * known.t1, known.t2, 3e-6])

    found = replace(rates, **decode_rates(job, place, decode), train=train_rate(job, place, 1e-15))

    made = generation_of(work, place, machines, found, slots=256)
    assert (made.t0, made.t1, made.t2) == pytest.approx(tuple(decode[:3]))
    assert made.prefill == pytest.approx(3e-6 * 1024 / 4 / 8 * 100)  # an engine's prompts
    passes = training_of(work, place, machines, found).passes.value
    assert passes == pytest.approx(work.train_flops * 1e-15)


def test_a_step_on_fewer_groups_than_minibatches_makes_fewer_updates() -> None:
    table = Optimizer(steps=1, minibatches=4, epochs=2)

    assert [updates_of(table, groups=groups) for groups in (1, 3, 4, 9)] == [2, 6, 8, 8]


def test_costs_are_found_again_from_the_times_that_they_make() -> None:
    rng = np.random.default_rng(0)
    demanded = rng.uniform(1, 100, (12, 4)) * [1, 50, 5000, 10]
    costs = np.array([0.010, 0.0003, 2e-7, 0.00005])
    noise = rng.uniform(0.99, 1.01, 12)

    np.testing.assert_allclose(fitted(demanded, demanded @ costs), costs, rtol=1e-6)
    np.testing.assert_allclose(
        fitted(demanded, demanded @ costs * noise) @ demanded.T, demanded @ costs, rtol=0.03
    )


def test_no_cost_is_negative_however_the_noise_lies() -> None:
    # Twice the second demand takes less time: a plain fit would pay for it with a negative cost.
    demanded = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])

    found = fitted(demanded, np.array([1.2, 1.0, 0.9]))

    assert found[1] == 0
    assert found[0] == pytest.approx(1.0, rel=0.1)


def test_a_calibration_is_read_as_it_was_written_and_replaces_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    FOUND.write(file)
    device = find_machines("cpu", nodes=1, default=1).device
    plain = estimated(device, read_efficiency(device), dtype="float32")

    rates = calibrated(plain, file, device=device, dtype="float32")

    assert read_calibration(file) == FOUND
    assert (rates.train, rates.contention, rates.said) == (5e10, 1.5, "measured, today")
    assert rates.network == plain.network


def test_a_calibration_of_another_device_or_dtype_is_left_alone_and_named(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    FOUND.write(file)
    device = find_machines("H100", nodes=1, default=1).device
    plain = estimated(device, read_efficiency(device), dtype="bfloat16")

    rates = calibrated(plain, file, device=device, dtype="bfloat16")

    assert rates == replace(plain, said=f"{plain.said}; {file} is of cpu in float32, so it is not used")


@pytest.mark.parametrize(
    ("asked", "runs_on", "kinds", "sentence"),
    [
        ("H100", "cpu", {"H100"}, "--measure runs on the CPU here, got 'H100'; leave --gpus out"),
        ("cpu", "cuda", {"H200"}, "--measure runs on H200 here, got none; name these"),
        ("cpu", "cuda", set[str](), "--measure runs on GPUs here, got none; name these"),
        ("H20", "cuda", {"H200"}, "--measure runs on H200 here, got 'H20'; name these"),
        ("H100", "cuda", {"A100-80G"}, "--measure runs on A100-80G here, got 'H100'; name these"),
    ],
)
def test_rates_are_never_filed_under_another_device(
    asked: str, runs_on: str, kinds: set[str], sentence: str
) -> None:
    with pytest.raises(RecipeError, match=sentence):
        check_device(find_machines(asked, nodes=1, default=1).device, runs_on=runs_on, kinds=kinds)


@pytest.mark.parametrize(
    ("asked", "runs_on", "kinds"),
    [("cpu", "cpu", {"H100"}), ("A100", "cuda", {"A100-80G"}), ("H800", "cuda", set[str]())],
)
def test_rates_are_filed_under_the_device_that_is_measured(asked: str, runs_on: str, kinds: set[str]) -> None:
    check_device(find_machines(asked, nodes=1, default=1).device, runs_on=runs_on, kinds=kinds)
