"""What is of use only together ends together."""

from __future__ import annotations

import asyncio

import pytest

from llmrl.errors import EngineError
from llmrl.run.together import together


async def number(value: int) -> int:
    await asyncio.sleep(0.01 * (3 - value))
    return value


def test_what_comes_out_is_in_order_whoever_is_done_first() -> None:
    async def run() -> list[int]:
        return await together(number(value) for value in range(3))

    assert asyncio.run(run()) == [0, 1, 2]


def test_the_first_failure_ends_the_others_and_keeps_its_cause() -> None:
    ended: list[bool] = []

    async def fails() -> int:
        await asyncio.sleep(0.01)
        raise EngineError("engine-1 is gone") from OSError("its pipe")

    async def goes_on() -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise
        return 0

    async def run() -> None:
        async with asyncio.timeout(10):
            await together([goes_on(), fails(), goes_on()])

    with pytest.raises(EngineError, match="engine-1 is gone") as failed:
        asyncio.run(run())
    assert isinstance(failed.value.__cause__, OSError)
    assert ended == [True, True]
