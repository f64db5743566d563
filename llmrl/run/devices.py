"""Turns to compute: engines and ranks on their own devices run at any time, on shared devices in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from llmrl.cluster.actor import Actor, attempted, gathered


class Devices(Protocol):
    """A gate to pass before anything is computed; calls sent to the other side earlier still complete."""

    @property
    def asleep(self) -> bool:
        """Whether the engines have no weights."""
        ...

    async def policy(self) -> None:
        """Return when the ranks have their devices."""
        ...

    async def engines(self) -> None:
        """Return when the engines may take weights."""
        ...


class OwnDevices:
    """Separate devices for engines and ranks: neither side waits."""

    asleep = False

    async def policy(self) -> None:
        """Nothing to do."""

    async def engines(self) -> None:
        """Nothing to do."""


class SharedDevices:
    """Shared devices: one side at a time has their memory; the other keeps what it needs on the host.

    An engine keeps nothing: it resumes with the next weights that are published, and only then.
    """

    def __init__(self, engines: Sequence[Actor], ranks: Sequence[Actor], *, deadline_s: float) -> None:
        self._engines, self._ranks, self._deadline_s = engines, ranks, deadline_s
        self._change = asyncio.Lock()
        self.asleep = True

    async def policy(self) -> None:
        """Put the engines to sleep, then bring the ranks back.

        A dead engine has left its device; a stuck one may not have, and the ranks may then find no room.
        Either is reported when weights are next sent to it.
        """
        async with self._change:
            if not self.asleep:
                await attempted(self._engines, "sleep", deadline_s=self._deadline_s)
                await self._all_ranks("come_back")
                self.asleep = True

    async def engines(self) -> None:
        """Let the ranks finish pending calls, the sending of weights included, and leave."""
        async with self._change:
            if self.asleep:
                self.asleep = False  # from here on, even if the caller is cancelled
                await self._all_ranks("leave")

    async def _all_ranks(self, method: str) -> None:
        await gathered([one.send(method) for one in self._ranks], deadline_s=self._deadline_s)
