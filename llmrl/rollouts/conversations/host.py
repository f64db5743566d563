"""A thread for environments, so that one that hangs holds up no engine and no run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from llmrl.errors import DeadlineError

Result = TypeVar("Result")

HEARTBEAT_S = 1.0
"""Seconds without progress after which the thread counts as blocked."""


class Host:
    """Runs the coroutines of environments in one thread and event loop.

    A coroutine that waits can be cancelled. One that blocks its thread cannot: the thread is left behind with
    it, and the next coroutine gets another. For one event loop; a closed host starts again when it is used.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._doubt = asyncio.Lock()

    async def run(self, work: Coroutine[Any, Any, Result], *, deadline_s: float) -> Result:
        """Run ``work``, and return or raise what it does.

        Raises:
            DeadlineError: it was not done in time, or raised this itself; or its thread was left behind.
        """
        loop = self._loop = self._loop or _begun()
        task = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
        try:
            done, _ = await asyncio.wait([task], timeout=deadline_s)
        finally:
            task.cancel()  # of no effect if it is done
        if not done:
            await self._replace_if_blocked(loop)
            raise DeadlineError(f"no reply within {deadline_s:g} s")
        if task.cancelled():
            raise DeadlineError("another reply blocked the thread of environments")
        return task.result()

    def close(self) -> None:
        """End the thread; one that is blocked ends when what blocks it does, or with the process."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    async def _replace_if_blocked(self, loop: asyncio.AbstractEventLoop) -> None:
        async with self._doubt:
            if self._loop is not loop:
                return
            heartbeat = threading.Event()
            loop.call_soon_threadsafe(heartbeat.set)
            if not await asyncio.to_thread(heartbeat.wait, HEARTBEAT_S):
                self.close()


def _begun() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_serve, args=[loop], name="environments", daemon=True).start()
    return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, then cancel what is still under way."""
    loop.run_forever()
    if left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left))
    loop.close()
