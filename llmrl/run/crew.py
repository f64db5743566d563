"""The processes of one stage: engines, policy ranks and roles, and the calls that go to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from llmrl.cluster.actor import Actor, Pending, gathered
from llmrl.errors import DisconnectedError, LlmrlError
from llmrl.run.devices import Devices
from llmrl.weights.bundle import WeightBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Weights on their way to the engines."""

    version: int
    sent: Sequence[Pending]
    """The pending calls of the ranks; the first one's result is the bundle."""
    copy: Pending | None
    """The bytes, if some engines cannot open the bundle's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Weights that were sent to every engine."""

    bundle: WeightBundle
    failed: Sequence[BaseException]
    """Errors of engines that did not take them: original failures, then the disconnections they caused."""

    def taken(self) -> WeightBundle:
        """The bundle that was sent, if every engine took it; otherwise the first failure is raised."""
        for error in self.failed:
            raise error
        return self.bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Handles on the processes, and the calls that go to all of them."""

    engines: Sequence[Actor]
    ranks: Sequence[Actor]
    roles: Mapping[str, Sequence[Actor]]
    """The processes of each role, by its name."""
    devices: Devices
    deadline_s: float
    remote: frozenset[str] = frozenset()
    """Names of the engines on other machines than rank 0's."""

    async def policy(self, method: str, *args: Any) -> list[Any]:
        """Make the same call on every rank; ranks run collectives together, so all or none must get it.

        On shared devices the engines sleep from here until weights are published.
        """
        await self.devices.policy()
        pending = [rank.send(method, *args) for rank in self.ranks]
        return await gathered(pending, deadline_s=self.deadline_s)

    async def meet_in(self, folder: Path) -> None:
        """Check that every rank finds in ``folder`` what this process writes there.

        Raises:
            PlacementError: a rank does not, and could save no checkpoint.
        """
        with NamedTemporaryFile(dir=folder, prefix=".meeting-") as file:
            await self.policy("find", Path(file.name))

    def post(self, version: int) -> Letter:
        """Have the ranks, whose turn it is, send their present weights before anything else."""
        pending = [rank.send("weights", version) for rank in self.ranks]
        # The other ranks help to gather, and have nothing to send.
        copy = self.ranks[0].send("copy_of", pending[0]) if self.remote else None
        return Letter(version=version, sent=pending, copy=copy)

    async def deliver(self, letter: Letter) -> Delivery:
        """Give the engines weights that are still on their way from the policy.

        A rank that fails or dies is raised at once; an engine is named when all others have taken them.
        """
        sending = asyncio.ensure_future(gathered(letter.sent, deadline_s=self.deadline_s))
        taking = asyncio.ensure_future(self._taken(letter))
        try:
            await asyncio.wait({sending, taking}, return_when=asyncio.FIRST_EXCEPTION)
            bundle, *_ = await sending
            failed = await taking
        finally:
            sending.cancel()
            taking.cancel()
        self.ranks[0].send("release", letter.version)
        if letter.copy is not None and failed:
            await letter.copy.result(deadline_s=self.deadline_s)
        # A DisconnectedError only reports another member's failure, so it comes last.
        failed.sort(key=lambda error: isinstance(error, DisconnectedError))
        return Delivery(bundle=bundle, failed=failed)

    async def _taken(self, letter: Letter) -> list[BaseException]:
        """Load the weights into every engine; returns the failures."""
        await self.devices.engines()
        loading = [self._load(engine, letter) for engine in self.engines]
        outcomes = await asyncio.gather(*loading, return_exceptions=True)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _load(self, engine: Actor, letter: Letter) -> None:
        copy = letter.copy if engine.name in self.remote else None
        try:
            await engine.send("load", letter.sent[0], copy).result(deadline_s=self.deadline_s)
        except LlmrlError:
            # Rank 0 too, which is alone with the broadcast if this was the only engine.
            for other in [*self.engines, self.ranks[0]]:
                other.send("hang_up", f"{engine.name} failed")
            raise
