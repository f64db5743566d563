"""A role whose process ends itself after 100 answers, and the reward that asks it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from llmrl.recipe.schema import Stage
from llmrl.rewards import reward
from llmrl.rewards.kinds.model import Classifier
from llmrl.roles.kinds import Classify
from llmrl.roles.role import Answer, Role, role

ANSWERS = 100


@role("mortal")
@dataclass(frozen=True, slots=True, kw_only=True)
class Mortal(Classify):
    """A classifier with an end."""

    async def start(self, stage: Stage, name: str, *, device: str) -> Role:
        return Ending(await Classify.start(self, stage, name, device=device))


class Ending:
    """Passes questions on while it lives."""

    def __init__(self, inner: Role) -> None:
        self._inner, self._left = inner, ANSWERS

    async def answer(self, route: str, question: bytes) -> Answer:
        self._left -= 1
        if self._left < 0:
            os._exit(1)
        return await self._inner.answer(route, question)

    async def close(self) -> None:
        await self._inner.close()


@reward("mortal")
@dataclass(frozen=True, slots=True, kw_only=True)
class MortalReward(Classifier):
    """Asks it."""

    asks: ClassVar[str] = "mortal"
