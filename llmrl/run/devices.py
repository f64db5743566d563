"""Who computes when: engines and ranks on devices of their own at any time, on the same devices in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from llmrl.cluster.actor import Actor, attempted, gathered


class Devices(Protocol):
    """Asked before anything is computed. What was sent to the other side before is still done."""

    @property
    def asleep(self) -> bool:
        """Whether the engines have no weights."""
        ...

    async def policy(self) -> None:
        """The ranks have their devices when this returns."""
        ...

    async def engines(self) -> None:
        """The engines may take weights when this returns."""
        ...


class OwnDevices:
    """Everybody has devices of their own, so nobody waits."""

    asleep = False

    async def policy(self) -> None:
        """Nothing to do."""

    async def engines(self) -> None:
        """Nothing to do."""


class SharedDevices:
    """Whose turn it is has the devices' memory; the other side keeps what it needs on the host.

    An engine keeps nothing: it goes on with the next weights that are published, and only then.
    """

    def __init__(self, engines: Sequence[Actor], ranks: Sequence[Actor], *, deadline_s: float) -> None:
        self._engines, self._ranks, self._deadline_s = engines, ranks, deadline_s
        self._change = asyncio.Lock()
        self.asleep = True

    async def policy(self) -> None:
        """The engines fall asleep, then the ranks come back.

        An engine that died has left its device; one that is stuck may have not, and then the ranks may find
        no room. Either is named where weights are next sent to it.
        """
        async with self._change:
            if not self.asleep:
                await attempted(self._engines, "sleep", deadline_s=self._deadline_s)
                await self._all_ranks("come_back")
                self.asleep = True

    async def engines(self) -> None:
        """The ranks do what they were told, the sending of weights too, and leave."""
        async with self._change:
            if self.asleep:
                self.asleep = False  # from here on also where nobody waits for the end of this
                await self._all_ranks("leave")

    async def _all_ranks(self, method: str) -> None:
        await gathered([one.send(method) for one in self._ranks], deadline_s=self._deadline_s)
