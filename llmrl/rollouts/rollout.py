"""Results of the engines: responses, token by token, with the weight version that sampled each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Prompt, Rewrite

Stop = Literal["stop", "length", "abort"]

COLUMNS = ("tokens", "logp", "version", "trained", "turn")
"""Attributes of a rollout with one value for each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The part of a rollout that is judged: everything but its tokens."""

    text: str
    """Text without special tokens."""
    last_turn: str | None
    """The policy's last turn alone; None where the response is one turn and nothing else."""
    tokens: int
    """Number of tokens."""
    stop: Stop
    outcome: float | None
    """The environment's value of the conversation; None where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """One response to one prompt. All arrays have the same length L.

    Raises:
        EngineError: the lengths differ.
    """

    tokens: NDArray[np.int32]
    """[L] token ids, the stop token included."""
    logp: NDArray[np.float32]
    """[L] nats of softmax(logits / temperature), as the engine reports them; 0 where ``trained`` is False."""
    version: NDArray[np.int32]
    """[L] weight version that sampled each token; it changes where weights arrived mid-response."""
    trained: NDArray[np.bool_]
    """[L] False on tokens that the policy did not write (tool output, the other speaker)."""
    turn: NDArray[np.int32]
    """[L] index of the policy's turn that a token belongs to."""
    stop: Stop
    """How it ended. ``stop``: by the policy; ``length``: by the token budget; ``abort``: it is unfinished."""
    text: str
    """The response without special tokens; what rewards judge."""
    last_turn: str | None = None
    """The policy's last turn alone; None where the response is one turn and nothing else."""
    opponent: bool = False
    """True if the opponent wrote it, not the policy."""
    outcome: float | None = None
    """The environment's value of the conversation; None where it gives none."""
    abort: str = ""
    """Reason why it is unfinished; empty unless ``stop`` is ``abort``."""
    rewrites: tuple[Rewrite, ...] = ()
    """Places where its past was rewritten, in order; none if each token was sampled after the prompt and all
    tokens before it."""

    def __post_init__(self) -> None:
        size = self.tokens.size
        if not size == self.logp.size == self.version.size == self.trained.size == self.turn.size:
            sizes = sorted({getattr(self, name).size for name in COLUMNS})
            raise EngineError(f"a response's {', '.join(COLUMNS)} have lengths {sizes}, not one")

    @property
    def response(self) -> Response:
        """The part of it that is judged."""
        return Response(
            text=self.text,
            last_turn=self.last_turn,
            tokens=int(self.tokens.size),
            stop=self.stop,
            outcome=self.outcome,
        )

    def segments(self, prompt: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], slice]]:
        """The ids that each segment goes on from, and its own tokens: prompt and response, but for rewrites.

        A token was sampled given the former and the tokens of its segment before it.
        """
        contexts = [prompt, *(rewrite.context for rewrite in self.rewrites)]
        starts = [0, *(rewrite.at for rewrite in self.rewrites)]
        for context, start, stop in zip(contexts, starts, [*starts[1:], self.tokens.size], strict=True):
            yield context, slice(start, stop)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutGroup:
    """All responses to one drawn prompt."""

    ordinal: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def oldest_version(self) -> int | None:
        """Version of the oldest token, for which the lag bound holds; None for a group without tokens."""
        return min((int(r.version.min()) for r in self.rollouts if r.version.size), default=None)

    def __reduce__(self) -> tuple[Callable[..., RolloutGroup], tuple[Any, ...]]:
        """Pickle as one array for each of ``COLUMNS``: forty small ones would take longer."""
        parts = [[getattr(one, name) for one in self.rollouts] for name in COLUMNS]
        columns = [np.concatenate(part) for part in parts if part]
        ends = np.cumsum([0, *(one.tokens.size for one in self.rollouts)]).tolist()
        others = [{name: getattr(one, name) for name in _OTHERS} for one in self.rollouts]
        return _arrived, (self.ordinal, self.prompt, columns, ends, others)


_OTHERS = tuple(field.name for field in fields(Rollout) if field.name not in COLUMNS)


def _arrived(
    ordinal: int,
    prompt: Prompt,
    columns: Sequence[NDArray[Any]],
    ends: Sequence[int],
    others: Sequence[Mapping[str, Any]],
) -> RolloutGroup:
    """Rebuild the group; its rollouts are views of the long arrays."""
    rollouts = tuple(
        Rollout(**dict(zip(COLUMNS, (column[begin:end] for column in columns), strict=True)), **other)
        for (begin, end), other in zip(pairwise(ends), others, strict=True)
    )
    return RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts)
