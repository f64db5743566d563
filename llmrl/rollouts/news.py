"""Early news of a group that is still being written: its responses, as each is finished."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmrl.prompts.prompt import Draw
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import Response

DrawKey = tuple[str, int, int]
"""Purpose, ordinal and tries of a draw: two tries of one may be under way at once."""


def key_of(draw: Draw, sampling: Sampling) -> DrawKey:
    """The key that identifies the responses to a draw."""
    return sampling.purpose, draw.ordinal, draw.tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished response."""

    draw: DrawKey
    number: int
    """Place of the response in its group."""
    response: Response


class News:
    """Keeps news until they are taken; those of a complete group are dropped."""

    def __init__(self) -> None:
        self._kept: dict[DrawKey, list[Finished]] = {}
        self._some = asyncio.Event()

    def tell(self, finished: Finished) -> None:
        """Add a finished response; others of its group may go on."""
        self._kept.setdefault(finished.draw, []).append(finished)
        self._some.set()

    def forget(self, draw: DrawKey) -> None:
        """Drop the news of a group that is complete, or never will be."""
        self._kept.pop(draw, None)

    async def take(self, *, wait_s: float) -> list[Finished]:
        """All news, each once, as soon as there are some; none if none come in time."""
        if not self._kept:
            self._some.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._some.wait()
            except TimeoutError:
                return []
        kept, self._kept = self._kept, {}
        return [finished for group in kept.values() for finished in group]
