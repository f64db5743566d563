"""SIGTERM: end what must not be cut short, save, and leave; the run goes on later with ``--resume``."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from llmrl.errors import Stopped


class StopRequest:
    """Whether somebody asked the run to end."""

    def __init__(self) -> None:
        self._made = asyncio.Event()

    def listen(self) -> None:
        """Take SIGTERM from now on; called after Ray has started, which installs handlers of its own."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.make)

    def make(self) -> None:
        """Ask the run to end."""
        self._made.set()

    def heed(self, moment: str) -> None:
        """End the run here if that was asked for.

        Raises:
            Stopped: it was.
        """
        if self._made.is_set():
            raise Stopped(f"stopped {moment} on SIGTERM; go on with llmrl train ... --resume")

    async def interrupts(self, work: Coroutine[Any, Any, None], *whole: asyncio.Lock) -> bool:
        """Do ``work`` until it is done or the run shall end; returns whether it was cut short.

        Args:
            work: what may be cut short while it waits.
            whole: held by what may not, and waited for.
        """
        working = asyncio.create_task(work)
        watching = asyncio.create_task(self._interrupt(working, whole))
        try:
            await asyncio.wait({working})
        finally:
            watching.cancel()
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()
        return working.cancelled()

    async def _interrupt(self, working: asyncio.Task[None], whole: tuple[asyncio.Lock, ...]) -> None:
        await self._made.wait()
        async with AsyncExitStack() as held:
            for lock in whole:
                await held.enter_async_context(lock)
            working.cancel()
            await asyncio.wait({working})
