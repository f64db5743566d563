"""Which engine answers a draw: the one with the fewest responses under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from llmrl.prompts.prompt import Draw
from llmrl.rollouts.engine import Sampling
from llmrl.rollouts.rollout import RolloutGroup

Answer = Callable[[Draw, Sampling], Awaitable[RolloutGroup]]


class EnginePool:
    """Spreads draws over engines. Which engine answers never changes a response, only how soon it comes."""

    def __init__(self, engines: Sequence[Answer]) -> None:
        self._engines = engines
        self.under_way = [0] * len(engines)
        self.answered = [0] * len(engines)

    async def generate(self, draw: Draw, sampling: Sampling) -> RolloutGroup:
        """All responses to one draw, from the least loaded engine."""
        index = min(range(len(self._engines)), key=self.under_way.__getitem__)
        responses = sampling.per_prompt + sampling.opponents
        self.under_way[index] += responses
        try:
            return await self._engines[index](draw, sampling)
        finally:
            self.under_way[index] -= responses
            self.answered[index] += responses

    def take_answered(self) -> list[int]:
        """Responses of each engine since this was last asked."""
        answered, self.answered = self.answered, [0] * len(self._engines)
        return answered
