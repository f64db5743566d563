"""The loop keeps its promises under random clocks: order, lag, room, and the first error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from llmrl.errors import RewardError
from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.loop import Judged, run_loop


def group_at(ordinal: int) -> RolloutGroup:
    token = np.array([1], dtype=np.int32)
    prompt = Prompt(id=f"p/{ordinal}", tokens=token, text="", answer=None, source="p", demonstration=token)
    return demonstrate(Draw(ordinal=ordinal, prompt=prompt))


class Simulated:
    """Stations with random clocks that remember what they saw."""

    def __init__(
        self, seed: int, *, drop_rate: float = 0.0, fail_at: int | None = None, patience: float = float("inf")
    ) -> None:
        self.clock = random.Random(seed)
        self.drop_rate, self.fail_at = drop_rate, fail_at
        self.served, self.drawn = 0, 0
        self.dispatched_at: dict[int, int] = {}
        self.lags: list[int] = []
        self.trained: list[int] = []
        self.refused: list[int] = []
        self.patience, self.refused_before = patience, 0
        self.sizes: list[int] = []
        self.published: list[int] = []
        self.most_under_way = 0

    def draw(self) -> int:
        self.drawn += 1
        return self.drawn - 1

    async def obtain(self, ordinal: int) -> Judged:
        self.dispatched_at[ordinal] = self.served
        done = len(self.refused) + len(self.published) * self.per_step
        self.most_under_way = max(self.most_under_way, self.drawn - done)
        await asyncio.sleep(self.clock.expovariate(2000))
        if ordinal == self.fail_at:
            raise RewardError("the scorer is broken")
        return Judged(group=group_at(ordinal), judgements=())

    per_step = 4

    def refuse(self, judged: Judged, /) -> bool:
        refused = self.clock.random() < self.drop_rate
        if refused:
            self.refused.append(judged.group.ordinal)
        return refused

    def exhausted(self) -> bool:
        return len(self.refused) - self.refused_before > self.patience

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        self.refused_before = len(self.refused)
        self.sizes.append(len(judged))
        self.lags += [step - self.dispatched_at[one.group.ordinal] for one in judged]
        return [imitate(one.group) for one in judged]

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        await asyncio.sleep(self.clock.expovariate(1000))
        self.trained += [e.group.ordinal for e in experiences]

    async def publish(self, version: int) -> None:
        await asyncio.sleep(self.clock.expovariate(1500))
        self.served = version
        self.published.append(version)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_lag", [0, 1, 3])
@pytest.mark.parametrize("drop_rate", [0.0, 0.4])
async def test_no_group_is_older_than_the_lag_bound_and_the_bound_is_used(
    max_lag: int, seed: int, drop_rate: float
) -> None:
    stations = Simulated(seed, drop_rate=drop_rate)

    await run_loop(stations, per_step=4, max_lag=max_lag, first=0, last=40)

    assert max(stations.lags) == max_lag
    assert min(stations.lags) >= 0


@pytest.mark.parametrize("max_lag", [0, 2])
async def test_every_drawn_group_is_trained_once_or_refused_once_in_the_order_of_the_draws(
    max_lag: int,
) -> None:
    stations = Simulated(0, drop_rate=0.3)

    await run_loop(stations, per_step=4, max_lag=max_lag, first=0, last=25)

    assert len(stations.trained) == 100
    assert stations.trained == sorted(set(stations.trained))
    seen = sorted([*stations.trained, *stations.refused])
    assert seen == list(range(len(seen)))
    assert stations.published == list(range(1, 26))


async def test_synchronous_training_never_has_more_than_one_step_under_way() -> None:
    stations = Simulated(3)

    await run_loop(stations, per_step=4, max_lag=0, first=0, last=20)

    assert stations.most_under_way == 4
    assert set(stations.lags) == {0}


async def test_the_first_failure_ends_the_loop_with_its_own_error() -> None:
    stations = Simulated(1, fail_at=30)

    with pytest.raises(RewardError, match="the scorer is broken"):
        await asyncio.wait_for(run_loop(stations, per_step=4, max_lag=1, first=0, last=100), 20)

    assert 30 not in stations.trained


async def test_a_resumed_loop_starts_at_its_first_step() -> None:
    stations = Simulated(2)
    stations.served = 7

    await run_loop(stations, per_step=4, max_lag=1, first=7, last=10)

    assert stations.published == [8, 9, 10]
    assert max(stations.lags) <= 1


@pytest.mark.parametrize("max_lag", [0, 2])
async def test_a_step_that_gives_up_trains_on_what_it_has_and_breaks_no_bound(max_lag: int) -> None:
    stations = Simulated(3, drop_rate=0.8, patience=8)

    await run_loop(stations, per_step=4, max_lag=max_lag, first=0, last=40)

    assert len(set(stations.sizes)) > 2
    assert max(stations.lags) == max_lag
    consumed = stations.trained + stations.refused
    assert sorted(consumed) == list(range(len(consumed)))
