"""The contract of every engine, whatever runs inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrl.registry import Registry
from llmrl.rollouts.engines.serving import Serving
from llmrl.rollouts.rollout import Stop
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.seat import Seat

Sampler = Literal["policy", "opponent"]
"""The model that answers: the weights that are trained, or the opponent of ``Serving.opponent``."""

UNTRAINED = 1 << 40
"""Added to the order of a draw that is not trained on; above all ordinals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to answer one draw."""

    purpose: str
    """``train``, or the name of an evaluation; part of every seed, so that the two never share samples."""
    per_prompt: int
    temperature: float
    max_tokens: int
    opponents: int = 0
    """Responses of the opponent, after the policy's ``per_prompt``."""
    branches: int = 1
    """Number of the policy's responses that share a conversation up to a random turn."""
    together: int | None = None
    """Most tokens of all segments of a response together, as one micro-batch must hold them; None if it is
    not trained on."""

    def order(self, ordinal: int) -> int:
        """Place of a draw's requests in the queue: oldest draws first, those not trained on after all."""
        return ordinal if self.together is not None else UNTRAINED + ordinal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One response to sample."""

    id: str
    """Unique among the requests of a run."""
    tokens: NDArray[np.int32]
    """[L] prompt ids."""
    max_tokens: int
    """Most response tokens."""
    temperature: float
    """0 takes the likeliest token."""
    seed: int
    """Equal seeds and weights give equal tokens, whatever else the engine is doing; on a GPU as far as its
    kernels compute the same logits in another batch (docs/rollouts.md, Seeds)."""
    sampler: Sampler = "policy"
    order: int = 0
    """Rank among the requests that wait for a place, lowest first: ``Sampling.order``, at least 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """The answer to one request; arrays of equal length L."""

    tokens: NDArray[np.int32]
    logp: NDArray[np.float32]
    """[L] nats of softmax(logits / temperature), at temperature 0 of softmax(logits), over all token ids."""
    version: NDArray[np.int32]
    """[L] weight version that sampled each token."""
    stop: Stop


class Engine(Protocol):
    """Generates tokens, scores tokens, and takes new weights while it does."""

    async def generate(self, request: Request) -> Completion:
        """Generate one response.

        Raises:
            EngineError: the request does not fit, nobody is there to answer it, or the engine sleeps or is
                dead.
        """
        ...

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score tokens: [L] nats of each given those before it, at temperature 1; the first is 0."""
        ...

    async def join(self, seat: Seat) -> None:
        """Take part in the group that weights are broadcast in; returns when all members have come.

        An engine that sleeps wakes up for them.

        Raises:
            WeightSyncError: somebody did not come.
        """
        ...

    async def load(self, bundle: WeightBundle) -> None:
        """Serve these weights from the next token on; nothing under way is lost.

        Args:
            bundle: complete, or to be broadcast; ``llmrl.weights.receiver.Receiver`` reads either.

        Raises:
            WeightSyncError: names or shapes differ from the engine's, or a broadcast broke off.
        """
        ...

    async def sleep(self) -> None:
        """Give the memory of the device up, weights and KV cache, until ``load`` brings weights for it.

        Only called when nothing is under way; until then the engine answers nobody.
        """
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


class EngineKind(Protocol):
    """A registered kind of engine: a frozen dataclass that starts one where the recipe names it."""

    async def start(self, serving: Serving, *, device: str) -> Engine:
        """Load the model in the folder ``serving.model.path`` and serve it on ``device`` (cpu or cuda)."""
        ...


engine: Registry[EngineKind] = Registry("engine", named_by="kind", protocol=EngineKind)
