"""The loop keeps its promises under random clocks: order, lag, room, and the first error."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Sequence

import numpy as np
import pytest

from llmrl.errors import RewardError
from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.loop import Decision, Judged, run_loop


class InstantLoop(asyncio.SelectorEventLoop):
    """Time passes only while everybody sleeps, and then at once: thousands of steps take a second."""

    def __init__(self) -> None:
        self._now = 0.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                assert timeout is not None, "everybody waits for somebody else"
                loop._now += max(0.0, timeout)
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self._now


def run(stations: Simulated, *, max_lag: int, last: int, first: int = 0, spare: int = 0) -> None:
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        runner.run(run_loop(stations, per_step=4, max_lag=max_lag, first=first, last=last, spare=spare))


def group_at(ordinal: int) -> RolloutGroup:
    token = np.array([1], dtype=np.int32)
    prompt = Prompt(id=f"p/{ordinal}", tokens=token, text="", answer=None, source="p", demonstration=token)
    return demonstrate(Draw(ordinal=ordinal, prompt=prompt))


class Simulated:
    """Stations with random clocks that remember what they saw."""

    def __init__(
        self,
        seed: int,
        *,
        drop_rate: float = 0.0,
        fail_at: int | None = None,
        patience: float = float("inf"),
        straggler_rate: float = 0.0,
        fail_ahead: bool = False,
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
        self.straggler_rate = straggler_rate
        self.given_up: list[int] = []
        self.again: list[int] = []
        self.fail_ahead = fail_ahead
        self.ahead: list[int] = []
        self.ahead_of: dict[int, list[int]] = {}
        self.at_work = False

    def draw(self) -> int:
        if self.again:
            return self.again.pop(0)
        self.drawn += 1
        return self.drawn - 1

    def late(self, ordinal: int, /) -> None:
        self.given_up.append(ordinal)
        self.again.append(ordinal)

    async def obtain(self, ordinal: int) -> Judged:
        self.dispatched_at[ordinal] = self.served
        left = len(self.refused) + len(self.published) * self.per_step + len(self.again)
        self.most_under_way = max(self.most_under_way, self.drawn - left)
        straggles = self.clock.random() < self.straggler_rate
        await asyncio.sleep(self.clock.expovariate(50 if straggles else 2000))
        if ordinal == self.fail_at:
            raise RewardError("the scorer is broken") from OSError("its pipe")
        return Judged(group=group_at(ordinal), judgements=())

    per_step = 4

    def decide(self, judged: Judged, /) -> Decision:
        if self.clock.random() >= self.drop_rate:
            return "train"
        self.refused.append(judged.group.ordinal)
        exhausted = len(self.refused) - self.refused_before > self.patience
        return "leave empty" if exhausted else "replace"

    async def score_ahead(self, judged: Sequence[Judged], /) -> None:
        if self.fail_ahead:
            raise RewardError("a rank died")
        while new := [one.group.ordinal for one in judged if one.group.ordinal not in self.ahead]:
            assert not self.at_work, "the policy does one thing at a time"
            self.at_work = True
            await asyncio.sleep(self.clock.expovariate(4000))
            self.at_work = False
            self.ahead += new

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        self.ahead_of[step], self.ahead = self.ahead, []
        self.refused_before = len(self.refused)
        self.sizes.append(len(judged))
        self.lags += [step - self.dispatched_at[one.group.ordinal] for one in judged]
        return [imitate(one.group) for one in judged]

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        assert not self.at_work, "scores are those before the step"
        self.at_work = True
        await asyncio.sleep(self.clock.expovariate(1000))
        self.at_work = False
        assert set(self.ahead_of[step]) <= {e.group.ordinal for e in experiences}
        self.trained += [e.group.ordinal for e in experiences]

    async def publish(self, version: int) -> None:
        await asyncio.sleep(self.clock.expovariate(1500))
        self.served = version
        self.published.append(version)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_lag", [0, 1, 3])
@pytest.mark.parametrize("drop_rate", [0.0, 0.4])
def test_no_group_is_older_than_the_lag_bound_and_the_bound_is_used(
    max_lag: int, seed: int, drop_rate: float
) -> None:
    stations = Simulated(seed, drop_rate=drop_rate)

    run(stations, max_lag=max_lag, last=40)

    assert max(stations.lags) == max_lag
    assert min(stations.lags) >= 0


@pytest.mark.parametrize("max_lag", [0, 2])
def test_every_drawn_group_is_trained_once_or_refused_once(max_lag: int) -> None:
    stations = Simulated(0, drop_rate=0.3)

    run(stations, max_lag=max_lag, last=25)

    assert len(stations.trained) == 100
    # Nothing is drawn in vain: what the last steps do not need is never asked for.
    assert sorted([*stations.trained, *stations.refused]) == list(range(stations.drawn))
    assert stations.published == list(range(1, 26))


@pytest.mark.parametrize("max_lag", [0, 2])
def test_the_groups_of_a_step_are_in_the_order_of_their_draws(max_lag: int) -> None:
    stations = Simulated(5)

    run(stations, max_lag=max_lag, last=25)

    steps = [stations.trained[at : at + 4] for at in range(0, 100, 4)]
    assert steps == [sorted(step) for step in steps]
    assert (stations.trained == sorted(stations.trained)) == (max_lag == 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spare", [0, 2])
def test_stragglers_are_overtaken_but_break_no_bound(seed: int, spare: int) -> None:
    """Some 10,000 groups, one in twenty forty times slower than the others."""
    stations = Simulated(seed, straggler_rate=0.05, drop_rate=0.2)

    run(stations, max_lag=2, last=2000, spare=spare)

    assert max(stations.lags) == 2
    assert len(stations.trained) == len(set(stations.trained)) == 8000
    assert bool(stations.given_up) == bool(spare)  # without spare groups every straggler is waited for


def test_spare_groups_let_synchronous_steps_go_on_without_their_stragglers() -> None:
    stations = Simulated(0, straggler_rate=0.1)

    run(stations, max_lag=0, last=100, spare=2)

    assert set(stations.lags) == {0}
    assert stations.most_under_way <= 6
    assert len(stations.given_up) >= 100
    assert len(set(stations.trained)) == 400


def test_synchronous_training_never_has_more_than_one_step_under_way() -> None:
    stations = Simulated(3)

    run(stations, max_lag=0, last=20)

    assert stations.most_under_way == 4
    assert set(stations.lags) == {0}


def test_the_first_failure_ends_the_loop_with_its_own_error() -> None:
    stations = Simulated(1, fail_at=30)

    with pytest.raises(RewardError, match="the scorer is broken") as caught:
        run(stations, max_lag=1, last=100)

    assert isinstance(caught.value.__cause__, OSError)
    assert 30 not in stations.trained


def test_a_step_that_waits_for_stragglers_scores_what_it_has() -> None:
    stations = Simulated(0, straggler_rate=0.2, drop_rate=0.2)

    run(stations, max_lag=1, last=100)

    early = [len(ahead) for ahead in stations.ahead_of.values()]
    assert len(early) == 100
    assert sum(early) > 100
    assert max(early) == 4  # the last one too, if it comes while others are being scored


def test_what_goes_wrong_ahead_of_a_step_ends_the_loop_at_once() -> None:
    stations = Simulated(0, straggler_rate=0.2, fail_ahead=True)

    with pytest.raises(RewardError, match="a rank died"):
        run(stations, max_lag=1, last=100)

    assert stations.trained == []


def test_a_resumed_loop_starts_at_its_first_step() -> None:
    stations = Simulated(2)
    stations.served = 7

    run(stations, max_lag=1, first=7, last=10)

    assert stations.published == [8, 9, 10]
    assert max(stations.lags) <= 1


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_step_that_gives_up_trains_on_what_it_has_and_breaks_no_bound(max_lag: int) -> None:
    stations = Simulated(3, drop_rate=0.8, patience=8)

    run(stations, max_lag=max_lag, last=40)

    assert len(set(stations.sizes)) > 2
    assert max(stations.lags) == max_lag
    assert sorted(stations.trained + stations.refused) == list(range(stations.drawn))
