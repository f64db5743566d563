"""What is told of a group before all of it is there: its responses, as each is finished."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmrl.prompts.prompt import Draw
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import Response

DrawKey = tuple[str, int, int]
"""Purpose, ordinal and tries of a draw: two tries of one may be under way at once."""


def key_of(draw: Draw, sampling: Sampling) -> DrawKey:
    """What the responses to a draw are told apart by."""
    return sampling.purpose, draw.ordinal, draw.tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One response is done."""

    draw: DrawKey
    number: int
    """Its place in the group."""
    response: Response


class News:
    """Keeps what is new until somebody asks; a group that is there is no news any more."""

    def __init__(self) -> None:
        self._kept: dict[DrawKey, list[Finished]] = {}
        self._some = asyncio.Event()

    def tell(self, finished: Finished) -> None:
        """A response is done, and others of its group may go on."""
        self._kept.setdefault(finished.draw, []).append(finished)
        self._some.set()

    def forget(self, draw: DrawKey) -> None:
        """The group is there, or will never be."""
        self._kept.pop(draw, None)

    async def take(self, *, wait_s: float) -> list[Finished]:
        """What is new, each once, as soon as something is; nothing if nothing is in time."""
        if not self._kept:
            self._some.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._some.wait()
            except TimeoutError:
                return []
        kept, self._kept = self._kept, {}
        return [finished for group in kept.values() for finished in group]
