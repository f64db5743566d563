"""The closed form of generation time against a simulation that decodes step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.errors import DataError, RecipeError
from llmrl.plan.hardware import find_machines, read_efficiency
from llmrl.plan.lengths import Lengths, assumed, read_lengths
from llmrl.plan.placement import Placement
from llmrl.plan.rates import estimated
from llmrl.plan.rollout import Generation, generation_of
from llmrl.plan.workload import Workload

Make = Callable[..., Generation]


def decoded(made: Generation, lengths: np.ndarray) -> float:
    """Seconds until the last of ``lengths`` is done, each starting as soon as a slot is free."""
    waiting, active, context, seconds = list(lengths), np.zeros(0), np.zeros(0), 0.0
    while waiting or active.size:
        free = int(made.slots) - active.size
        started, waiting = waiting[:free], waiting[free:]
        active = np.concatenate([active, started])
        context = np.concatenate([context, np.full(len(started), made.prompt)])
        seconds += made.t0 + made.t1 * active.size + made.t2 * context.sum()
        active, context = active - 1, context + 1
        active, context = active[active > 0], context[active > 0]
    return seconds


@pytest.mark.parametrize(("samples", "slots", "within"), [(64, 64, 0.04), (256, 256, 0.04), (512, 128, 0.08)])
def test_generation_alone_takes_as_long_as_when_it_is_simulated(
    samples: int, slots: int, within: float, generation_for: Make
) -> None:
    lengths = assumed(300, cv=0.8, cap=2000)
    made = generation_for(lengths, samples=samples, slots=slots)

    simulated = np.mean([decoded(made, lengths.draw(samples, seed=seed)) for seed in range(20)])

    assert made.alone_s == pytest.approx(simulated, rel=within)


def test_among_others_there_is_no_tail(generation_for: Make) -> None:
    lengths = assumed(300, cv=0.8, cap=2000)
    made = generation_for(lengths, samples=64, slots=64)
    many = generation_for(lengths, samples=64 * 40, slots=64)

    # Forty times as many responses have one tail between them.
    together = decoded(many, lengths.draw(64 * 40, seed=0))
    tail = made.alone_s - made.flowing_s
    assert (together - tail) / 40 == pytest.approx(made.flowing_s, rel=0.08)
    assert made.alone_s > 2 * made.flowing_s


def test_responses_of_one_length_worked_by_hand(generation_for: Make) -> None:
    lengths = Lengths.of(np.full(4, 100.0), "")
    made = generation_for(lengths, samples=8, slots=8, t1=0.001, t2=0.0)

    # 100 steps of 10 ms, and 1 ms for each of 8 sequences in each.
    assert made.alone_s == pytest.approx(100 * 0.010 + 100 * 8 * 0.001)
    # With half the slots, twice as many steps of the fixed part.
    assert replace(made, slots=4).alone_s == pytest.approx(200 * 0.010 + 100 * 8 * 0.001)


def test_a_decode_step_reads_the_weights_once_and_the_cache_of_every_sequence(
    work: Workload, place: Placement
) -> None:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")

    made = generation_of(work, place, machines, rates, slots=256)

    reach = 0.85 * 3.35e12
    assert made.t0 == pytest.approx(2 * work.architecture.matrices / reach + 0.0015)
    assert made.t1 == pytest.approx(2 * work.architecture.matrices / (0.6 * 989e12) + 95e-6)
    assert made.t2 == pytest.approx(57_344 / reach)
    assert made.samples == 256


def test_two_gpus_share_an_engine_and_talk_twice_a_layer(work: Workload, place: Placement) -> None:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")

    one = generation_of(work, place, machines, rates, slots=256)
    two = generation_of(work, replace(place, tensor_parallel=2), machines, rates, slots=256)

    assert two.t2 == pytest.approx(one.t2 / 2)
    assert two.t0 - 0.0015 == pytest.approx((one.t0 - 0.0015) / 2 + 2 * 28 * 12e-6)


@pytest.mark.parametrize("opponent", [{}, {"opponents": 24.0, "t3": 0.002}])
def test_tokens_of_a_period_are_its_decode_steps_times_the_sequences_in_progress(
    opponent: dict[str, float], generation_for: Make
) -> None:
    lengths = assumed(300, cv=0.8, cap=2000)
    made = generation_for(lengths, samples=48, slots=64, **opponent)
    period = 1.5 * made.flowing_s

    sequences = made.sequences_at(period)

    assert sequences < made.slots
    assert period / made.step_s(sequences) * sequences == pytest.approx(48 * lengths.mean)


def test_vllm_asks_an_opponents_model_for_one_token_of_one_response_at_a_time(
    work: Workload, place: Placement
) -> None:
    machines = find_machines("8xH100", nodes=1, default=1)
    rates = estimated(machines.device, read_efficiency(machines.device), dtype="bfloat16")
    opposed = replace(work, opponent_width=2, generated=work.samples + 128)

    plain = generation_of(replace(opposed, opponent_width=0), place, machines, rates, slots=256)
    one = generation_of(opposed, place, machines, rates, slots=256)
    batched = generation_of(opposed, replace(place, engine="torch"), machines, rates, slots=256)

    # 128 responses of 500 tokens on four engines; each token reads all weights.
    each = 2 * work.architecture.matrices / (0.85 * 3.35e12) + 0.0015
    assert one.flowing_s - plain.flowing_s == pytest.approx(128 / 4 * 500 * each)
    assert batched.flowing_s == plain.flowing_s
    # They answer the same prompts, which are read once.
    assert one.prefill == generation_of(work, place, machines, rates, slots=256).prefill


def test_assumed_lengths_have_the_mean_that_was_asked_for_after_the_cut() -> None:
    lengths = assumed(600, cv=1.0, cap=1000)

    assert lengths.mean == pytest.approx(600, rel=1e-6)
    assert lengths.sorted[-1] == 1000
    assert lengths.longest_of(1) == pytest.approx(600, rel=1e-3)
    assert lengths.longest_of(64) == pytest.approx(1000, rel=1e-3)


def test_measured_lengths_are_read_from_lines_or_from_json(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("30\n10\n20\n")
    (tmp_path / "list.json").write_text("[10, 30, 20]")

    for name in ("lines.txt", "list.json"):
        assert read_lengths(tmp_path / name, cap=100).sorted.tolist() == [10, 20, 30]


def test_lengths_that_no_response_can_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("10 5000")
    (tmp_path / "words.txt").write_text("ten twenty")

    with pytest.raises(DataError, match=r"between 1 and rollouts.max_tokens = 100, got 10 to 5000"):
        read_lengths(tmp_path / "long.txt", cap=100)
    with pytest.raises(DataError, match="holds no list of numbers"):
        read_lengths(tmp_path / "words.txt", cap=100)
    with pytest.raises(RecipeError, match=r"--mean: expected tokens between 1 and .* = 100, got 200"):
        assumed(200, cv=0.5, cap=100)
    with pytest.raises(RecipeError, match=r"--cv: expected a spread between 0 and 10, got -1"):
        assumed(50, cv=-1, cap=100)
