"""The pace of an overlapping run against a simulation of the loop's own admission."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from llmrl.plan.lengths import Lengths, assumed
from llmrl.plan.pace import pace_of
from llmrl.plan.placement import Update
from llmrl.plan.rollout import Generation

Make = Callable[..., Generation]
STEPS, WARM = 16, 4


def simulated(
    made: Generation, lengths: Lengths, *, training_s: float, sync_s: float, lag: int, update: Update = "keep"
) -> tuple[float, float]:
    """Seconds of a step and mean lag of a token, as ``run/loop`` admits, orders and publishes.

    Responses are their own groups; engines hold ``slots`` of them, and the rest waits in line.
    """
    size = int(made.samples)
    stream = iter(lengths.draw(size * (STEPS + lag + 2), seed=0))
    room = deque(range((lag + 1) * size))
    drawn, left = [next(stream) for _ in room], deque(room)
    active: dict[int, int] = {}
    done: set[int] = set()
    born: dict[int, list[int]] = {}
    now, trained, version = 0.0, 0, 0
    training_until = -1.0
    publishing: list[float] = []
    ends, lags = [], []
    while trained < STEPS:
        draining = update == "drain" and any(at - sync_s <= now for at in publishing)
        if draining and not active:
            now += sync_s  # the engine takes the weights, and nothing else
            publishing[0] = now
        due = [] if draining and active else [at for at in publishing if at <= now]
        for at in due:
            publishing.remove(at)
            version += 1
            if update == "abort":
                now += made.read * sum(made.prompt + len(born[one]) for one in active)
            left.extend(range(len(drawn), len(drawn) + size))
            drawn += [next(stream) for _ in range(size)]
        if 0 <= training_until <= now:
            publishing.append(training_until + sync_s)
            ends.append(training_until)
            trained, training_until = trained + 1, -1.0
        wanted = range(trained * size, (trained + 1) * size)
        if training_until < 0 and all(one in done for one in wanted):
            training_until = now + training_s
            lags.append(np.mean([trained - v for one in wanted for v in born[one]]))
        draining = update == "drain" and any(at - sync_s <= now for at in publishing)
        while left and len(active) < made.slots and not draining:
            one = left.popleft()
            active[one], born[one] = int(drawn[one]), []
        if active:
            now += made.step_s(len(active))
            for one in list(active):
                born[one].append(version)
                active[one] -= 1
                if not active[one]:
                    done.add(one)
                    del active[one]
        else:
            now = min([at for at in [*publishing, training_until] if at > now], default=now + 1e-3)
    return float(np.diff(ends[WARM:]).mean()), float(np.mean(lags[WARM:]))


@pytest.mark.parametrize(
    ("training_s", "slots", "lag", "binds"),
    [
        (1.0, 64, 0, "the sum of both"),
        (1.0, 64, 1, "lag"),
        (12.0, 64, 2, "training"),
        (1.0, 16, 4, "generation"),
        (3.0, 64, 1, "lag"),
    ],
)
def test_the_pace_is_that_of_the_simulated_loop(
    training_s: float, slots: int, lag: int, binds: str, generation_for: Make
) -> None:
    lengths = assumed(200, cv=0.6, cap=600)
    made = generation_for(lengths, samples=48, slots=slots)

    pace = pace_of(made, training_s=training_s, sync_s=0.2, lag=lag)
    step, mean_lag = simulated(made, lengths, training_s=training_s, sync_s=0.2, lag=lag)

    assert pace.binds == binds
    assert pace.step.value == pytest.approx(step, rel=0.15)
    assert pace.mean_lag == pytest.approx(mean_lag, abs=0.4)


@pytest.mark.parametrize(
    ("update", "lag", "training_s", "binds"),
    [
        ("keep", 4, 1.0, "generation"),
        (
            "drain",
            1,
            1.0,
            "generation",
        ),  # with more lag some versions share a drain, and the plan is too slow
        ("drain", 1, 20.0, "training"),
        ("abort", 4, 1.0, "generation"),
        ("abort", 4, 20.0, "training"),
    ],
)
def test_what_a_sync_does_to_responses_under_way_has_its_time(
    update: Update, lag: int, training_s: float, binds: str, generation_for: Make
) -> None:
    lengths = assumed(200, cv=0.6, cap=600)
    made = generation_for(lengths, samples=48, slots=32, read=2e-4)

    pace = pace_of(made, training_s=training_s, sync_s=0.2, lag=lag, update=update)
    step, _ = simulated(made, lengths, training_s=training_s, sync_s=0.2, lag=lag, update=update)

    assert pace.binds == binds
    assert pace.step.value == pytest.approx(step, rel=0.15)
    kept = pace_of(made, training_s=training_s, sync_s=0.2, lag=lag).step.value
    assert (pace.step.value > 1.2 * kept) == (update != "keep" and binds == "generation")


def test_synchronous_is_the_sum(generation_for: Make) -> None:
    made = generation_for(assumed(200, cv=0.6, cap=600), samples=48, slots=64)

    pace = pace_of(made, training_s=3.0, sync_s=0.5, lag=0)

    assert pace.step.value == pytest.approx(made.alone_s + 3.5)
    assert pace.mean_lag == 0


def test_more_lag_never_costs_time_and_enough_lag_reaches_the_limit(generation_for: Make) -> None:
    made = generation_for(assumed(200, cv=1.0, cap=2000), samples=48, slots=64)

    paces = [pace_of(made, training_s=2.0, sync_s=0.2, lag=lag) for lag in range(12)]
    steps = [pace.step.value for pace in paces]

    assert steps == sorted(steps, reverse=True)
    enough = paces[1].enough_lag
    assert steps[enough] == pytest.approx(max(2.0, made.flowing_s), rel=1e-6)
    assert steps[enough - 1] > 1.01 * steps[enough]


def test_sides_that_share_cores_slow_each_other_down_while_both_work(generation_for: Make) -> None:
    lengths = Lengths.of(np.full(4, 100.0), "")
    # 100 steps of 20 ms for 8 sequences that fill all slots: 2 s.
    made = generation_for(lengths, samples=8, slots=8, t0=0.020, t1=0.0, t2=0.0)

    apart = pace_of(made, training_s=3.0, sync_s=0.0, lag=4)
    shared = pace_of(made, training_s=3.0, sync_s=0.0, lag=4, contention=1.5)

    assert apart.step.value == pytest.approx(3.0)
    assert shared.step.value == pytest.approx(3.0 + 0.5 * 2.0)


def test_demonstrations_are_only_trained(generation_for: Make) -> None:
    pace = pace_of(None, training_s=2.0, sync_s=0.0, lag=1)

    assert (pace.step.value, pace.binds) == (2.0, "training")
