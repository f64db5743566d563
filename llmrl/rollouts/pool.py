"""Assignment of draws to engines: to the one with the fewest responses under way."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from llmrl.prompts.prompt import Draw
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup

Answer = Callable[[Draw, Sampling], Awaitable[RolloutGroup]]


class EnginePool:
    """Spreads draws over engines. Which engine answers never changes a response, only how soon it comes."""

    def __init__(self, engines: Sequence[Answer]) -> None:
        self._engines = engines
        self.under_way = [0] * len(engines)
        self.answered = [0] * len(engines)
        self._busy_s = [0.0] * len(engines)
        self._busy_since = [0.0] * len(engines)

    async def generate(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        """Generate all responses to one draw, on the least loaded engine."""
        index = min(range(len(self._engines)), key=self.under_way.__getitem__)
        responses = sampling.per_prompt + sampling.opponents
        self._change(index, responses)
        try:
            group = await self._engines[index](draw, sampling)
            self.answered[index] += responses
            return group
        finally:
            self._change(index, -responses)

    def take_busy(self) -> list[float]:
        """Busy seconds of each engine since the last call."""
        for index in range(len(self._engines)):
            self._change(index, 0)
        busy, self._busy_s = self._busy_s, [0.0] * len(self._engines)
        return busy

    def _change(self, index: int, responses: int) -> None:
        now = time.monotonic()
        if self.under_way[index]:
            self._busy_s[index] += now - self._busy_since[index]
        self._busy_since[index] = now
        self.under_way[index] += responses

    def take_answered(self) -> list[int]:
        """Responses of each engine since the last call."""
        answered, self.answered = self.answered, [0] * len(self._engines)
        return answered
