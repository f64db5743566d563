"""SIGTERM or Ctrl-C: end what must not be cut short, save, and leave; the run goes on with ``--resume``."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from llmrl.errors import Interrupted, Stopped

AGAIN_S = 1.0
"""Seconds after the first Ctrl-C before another counts: launchers repeat what the terminal has sent."""


async def abandonable(work: Callable[[], object]) -> None:
    """Run it in a thread that a cancelled caller does not wait for; the end of the process cuts it short.

    ``asyncio.to_thread`` would be waited for, by the loop that is closed and by the interpreter.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not ended.done():  # or else the caller is gone
            ended.set_exception(error) if error else ended.set_result(None)

    def run() -> None:
        error = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001  re-raised in the caller
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="abandonable", daemon=True).start()
    await ended


async def uncut(work: Coroutine[Any, Any, None]) -> None:
    """Run to completion even if the caller is cancelled, which returns only then."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    finally:
        await asyncio.wait({working})


class StopRequest:
    """Whether a signal asked the run to end."""

    def __init__(self) -> None:
        self._made = asyncio.Event()
        self._by = signal.SIGTERM

    def listen(self, say: Callable[[str], None]) -> None:
        """Take signals from now on; called after Ray has started, as Ray installs handlers of its own."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.make, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._interrupted, say)

    def make(self, by: signal.Signals) -> None:
        """Ask the run to end."""
        if not self._made.is_set():
            self._by = by
            self._made.set()

    def _interrupted(self, say: Callable[[str], None]) -> None:
        if not self._made.is_set():
            say("ending the step under way, then saving; Ctrl-C again leaves at once and saves nothing")
        self.make(signal.SIGINT)
        loop = asyncio.get_running_loop()
        loop.call_later(AGAIN_S, loop.remove_signal_handler, signal.SIGINT)

    def heed(self, moment: str) -> None:
        """End the run here if that was requested.

        Raises:
            Stopped: it was requested.
        """
        if self._made.is_set():
            kind = Interrupted if self._by is signal.SIGINT else Stopped
            raise kind(f"stopped {moment} on {self._by.name}; go on with llmrl train ... --resume")

    async def interrupts(self, work: Coroutine[Any, Any, None], *whole: asyncio.Lock) -> bool:
        """Run ``work`` until it is done or the run is to end; returns whether it was cut short.

        Args:
            work: a coroutine that may be cut short while it waits.
            whole: locks held by parts that may not be cut short; these are waited for.
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
