"""A plugin: an engine that takes equally long for every response, at no CPU time worth mentioning."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.rollouts.engines import Completion, Request, Serving
from llmrl.rollouts.engines.engine import engine
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.seat import Seat

LATENCY_S = 0.2


@engine("fixed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """No model at all."""

    async def start(self, serving: Serving, *, device: str) -> FixedEngine:
        """Nothing to load."""
        return FixedEngine()


class FixedEngine:
    """Says nonsense of the greatest length, under the version given last, and proves any weights."""

    def __init__(self) -> None:
        self._version = 0
        self._proof = np.empty(0, np.float32)

    async def generate(self, request: Request) -> Completion:
        """As long as allowed, at any length."""
        await asyncio.sleep(LATENCY_S)
        size = request.max_tokens
        return Completion(
            tokens=np.full(size, 3, np.int32),
            logp=np.full(size, -1, np.float32),
            version=np.full(size, self._version, np.int32),
            stop="length",
        )

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """What the policy thinks of its probe, which is all that anybody asks for."""
        assert tokens.size == self._proof.size
        return self._proof

    async def join(self, seat: Seat) -> None:
        """No group."""

    async def load(self, bundle: WeightBundle) -> None:
        """Only the number, and the proof."""
        self._version, self._proof = bundle.version, bundle.probe.logp

    async def close(self) -> None:
        """Nothing to free."""
