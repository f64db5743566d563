"""Calls that are given up end as given up, whatever arrives in the same moment."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from llmrl.cluster.actor import Pending


class Reference:
    """What ``Pending`` asks of Ray's reference: a future that ends at a moment of the test's choosing."""

    def __init__(self) -> None:
        self.value: Future[int] = Future()

    def future(self) -> Future[int]:
        return self.value


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_call_returns_nothing_even_if_its_value_is_just_arriving(turns: int) -> None:
    reference = Reference()
    waiting = asyncio.create_task(Pending(reference, "engine-0.generate").result(deadline_s=5))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    reference.value.set_result(1)
    for _ in range(turns):  # each turn of the loop carries the value one station further
        await asyncio.sleep(0)

    cancelled = waiting.cancel()
    ended = await asyncio.gather(waiting, return_exceptions=True)

    assert isinstance(ended[0], asyncio.CancelledError) if cancelled else ended == [1]
