"""A step's experiences as a few long arrays, which travel to the policy once and which its ranks divide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import EngineError, LlmrlError, TrainingError
from llmrl.experience.experience import Experience


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """G groups of R rows in all, a row for each rollout; the N tokens of all rows lie end to end.

    A few arrays of megabytes cross processes without being looked at; thousands of small ones do not.
    """

    names: tuple[str, ...]
    """Id of each group's prompt, for messages."""
    ordinals: NDArray[np.int64]
    """[G] ordinals of the groups' draws."""
    first: NDArray[np.int64]
    """[G + 1] first row of each group, then R."""
    starts: NDArray[np.int64]
    """[R + 1] index of the first token of each row, then N."""
    tokens: NDArray[np.int32]
    logp: NDArray[np.float32]
    trained: NDArray[np.bool_]
    turn: NDArray[np.int32]
    advantage: NDArray[np.float32]
    reward: NDArray[np.float32]
    """[R] total rewards; 0 where nothing judged the response."""
    opponent: NDArray[np.bool_]
    """[R] True where the opponent wrote the response."""
    pairs: NDArray[np.int64]
    """[P, 2] rows to compare: the preferred one, then the other."""
    read: NDArray[np.int32]
    """Ids that segments go on from, end to end: the prompt of each group, and the contexts of rewrites."""
    segments: NDArray[np.int64]
    """[S, 4] row, index of the first token, and start and end in ``read`` of what it goes on from."""

    @classmethod
    def of(cls, experiences: Sequence[Experience]) -> Self:
        """The columns of whole groups.

        Raises:
            EngineError: a trained token's logprob is not finite.
            TrainingError: a trained token's credit is not finite.
        """
        rollouts = [rollout for one in experiences for rollout in one.group.rollouts]
        starts = _ends(rollout.tokens.size for rollout in rollouts)
        tokens, logp, turn, advantage, trained = _joined(
            int(starts[-1]),
            ([rollout.tokens for rollout in rollouts], np.int32),
            ([rollout.logp for rollout in rollouts], np.float32),
            ([rollout.turn for rollout in rollouts], np.int32),
            ([credit for one in experiences for credit in one.advantages], np.float32),
            ([rollout.trained for rollout in rollouts], np.bool_),
        )
        first = _ends(len(one.group.rollouts) for one in experiences)
        read, segments = _contexts(experiences)
        pairs = [(at + a, at + b) for at, one in zip(first, experiences, strict=False) for a, b in one.pairs]
        made = cls(
            names=tuple(one.group.prompt.id for one in experiences),
            ordinals=np.array([one.group.ordinal for one in experiences], dtype=np.int64),
            first=first,
            starts=starts,
            tokens=tokens,
            logp=logp,
            trained=trained,
            turn=turn,
            advantage=advantage,
            reward=np.array([value for one in experiences for value in _rewards(one)], dtype=np.float32),
            opponent=np.array([rollout.opponent for rollout in rollouts], dtype=np.bool_),
            pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            read=read,
            segments=segments,
        )
        made._refuse_infinite(made.logp, EngineError, "the engine reported a logprob")
        made._refuse_infinite(made.advantage, TrainingError, "the policy got credit")
        return made

    @property
    def groups(self) -> int:
        """G, the number of groups."""
        return self.ordinals.size

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return self.starts.size - 1

    def group_of(self, row: int) -> int:
        """The group that a row belongs to."""
        return int(np.searchsorted(self.first, row, side="right")) - 1

    def where(self, row: int) -> str:
        """Description of a row, for messages."""
        group = self.group_of(row)
        return f"response {row - int(self.first[group])} to prompt '{self.names[group]}'"

    def tokens_of(self, row: int) -> slice:
        """Slice of a row's tokens."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))

    def segments_of(self, row: int) -> Iterator[tuple[NDArray[np.int32], slice]]:
        """The ids that each segment of a row goes on from, and the slice of its own tokens.

        A token was sampled given the former and the tokens of its segment before it.
        """
        mine = slice(*np.searchsorted(self.segments[:, 0], [row, row + 1]).tolist())
        here = self.tokens_of(row)
        starts = (here.start + self.segments[mine, 1]).tolist()
        spans = self.segments[mine, 2:].tolist()
        for (begin, end), start, stop in zip(spans, starts, [*starts[1:], here.stop], strict=True):
            yield self.read[begin:end], slice(start, stop)

    def _refuse_infinite(self, values: NDArray[np.float32], error: type[LlmrlError], what: str) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # as is nearly always so; then each of them is
                return
        wrong = self.trained & ~np.isfinite(values)
        if wrong.any():
            row = int(np.searchsorted(self.starts, wrong.argmax(), side="right")) - 1
            raise error(f"{self.where(row)}: {what} that is not finite for a trained token.")


def _rewards(experience: Experience) -> list[float]:
    if not experience.judgements:
        return [0.0] * len(experience.group.rollouts)
    return [judgement.reward or 0.0 for judgement in experience.judgements]


def _contexts(experiences: Sequence[Experience]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Make ``read`` and ``segments``; the rows of a group share the ids of their prompt."""
    rollouts = [rollout for one in experiences for rollout in one.group.rollouts]
    rewritten = [(row, rewrite) for row, one in enumerate(rollouts) for rewrite in one.rewrites]
    pieces = [one.group.prompt.tokens for one in experiences] + [rewrite.context for _, rewrite in rewritten]
    ends = _ends(piece.size for piece in pieces)
    places = np.stack([ends[:-1], ends[1:]], axis=1)
    first = np.zeros((len(rollouts), 4), dtype=np.int64)
    first[:, 0] = np.arange(len(rollouts))
    first[:, 2:] = np.repeat(
        places[: len(experiences)], [len(one.group.rollouts) for one in experiences], axis=0
    )
    later = np.zeros((len(rewritten), 4), dtype=np.int64)
    later[:, :2] = np.array([(row, rewrite.at) for row, rewrite in rewritten]).reshape(-1, 2)
    later[:, 2:] = places[len(experiences) :]
    segments = np.concatenate([first, later])
    (read,) = _joined(int(ends[-1]), (pieces, np.int32))
    return read, segments[np.argsort(segments[:, 0], kind="stable")]


def _ends(sizes: Iterable[int]) -> NDArray[np.int64]:
    """Cumulative sums of the sizes, after a 0."""
    return np.cumsum([0, *sizes], dtype=np.int64)


def _joined(size: int, *columns: tuple[Sequence[NDArray[Any]], type[np.generic]]) -> list[NDArray[Any]]:
    """Join each column's parts end to end, ``size`` values in all.

    They lie in one stretch of memory: a fresh page costs more than what is written on it, and the allocator
    keeps one large stretch for the next step, while it gives several smaller ones back to the system.
    """
    ends = _ends(size * np.dtype(dtype).itemsize for _, dtype in columns)
    stretch = np.empty(ends[-1], dtype=np.uint8)
    places = [stretch[begin:end] for begin, end in pairwise(ends)]
    return [
        np.concatenate([np.zeros(0, dtype=dtype), *parts], out=place.view(dtype))
        for (parts, dtype), place in zip(columns, places, strict=True)
    ]
