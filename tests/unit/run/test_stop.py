"""Who is asked to end ends soon, but not in the middle of what must be whole."""

from __future__ import annotations

import asyncio
import signal

import pytest

from llmrl.errors import Interrupted, RewardError, Stopped
from llmrl.run import stop as stops
from llmrl.run.stop import StopRequest, uncut


async def test_what_waits_is_cut_short_at_once() -> None:
    stop = StopRequest()
    asyncio.get_running_loop().call_later(0.01, stop.make, signal.SIGTERM)

    async with asyncio.timeout(5):
        assert await stop.interrupts(asyncio.sleep(3600))
    with pytest.raises(Stopped, match="stopped after step 3 on SIGTERM; go on with llmrl train"):
        stop.heed("after step 3")


async def test_what_must_be_whole_ends_first_and_nothing_begins_after_it() -> None:
    stop, stepping, publishing = StopRequest(), asyncio.Lock(), asyncio.Lock()
    done: list[str] = []

    async def step(name: str, lock: asyncio.Lock) -> None:
        async with lock:
            stop.make(signal.SIGTERM)
            await asyncio.sleep(0.01)
            done.append(name)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step("published 1", publishing))
            await step("trained 2", stepping)
            tasks.create_task(step("published 2", publishing))
            await step("trained 3", stepping)

    assert await stop.interrupts(work(), stepping, publishing)
    assert sorted(done) == ["published 1", "trained 2"]


async def test_what_must_be_whole_ends_also_where_something_beside_it_fails() -> None:
    done: list[str] = []

    async def step() -> None:
        await asyncio.sleep(0.05)
        done.append("step")

    async def fails() -> None:
        raise RewardError("the scorer is broken")

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            await uncut(step())
            done.append("what comes next")

    with pytest.raises(BaseExceptionGroup):
        await both()
    assert done == ["step"]
    with pytest.raises(RewardError, match="the scorer is broken"):
        await uncut(fails())


async def test_work_that_nobody_interrupts_ends_as_it_does() -> None:
    async def fails() -> None:
        raise RewardError("the scorer is broken")

    stop = StopRequest()
    stop.heed("before stage 'train'")
    assert not await stop.interrupts(asyncio.sleep(0))
    with pytest.raises(RewardError, match="the scorer is broken"):
        await stop.interrupts(fails())


async def test_who_is_cancelled_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    waiting = asyncio.create_task(StopRequest().interrupts(work()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert cancelled.is_set()


async def test_the_first_interrupt_saves_and_one_more_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "AGAIN_S", 0.2)
    stop, said = StopRequest(), list[str]()
    stop.listen(said.append)

    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)  # what a launcher passes on
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await stop.interrupts(asyncio.sleep(3600))
    with pytest.raises(Interrupted, match="stopped after step 3 on SIGINT; go on with llmrl train"):
        stop.heed("after step 3")

    assert said == ["ending the step under way, then saving; Ctrl-C again leaves at once and saves nothing"]
    await asyncio.sleep(0.3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
