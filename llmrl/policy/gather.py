"""The policy's tensors made whole bucket by bucket, so that no rank ever holds all of a sharded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from llmrl.policy.tensors import Piece
from llmrl.policy.zero import Zero
from llmrl.weights.outbox import Tensors

MIB = 2**20


def gathered(zero: Zero, pieces: Sequence[Piece], *, bucket_mib: int) -> Iterator[Tensors]:
    """All pieces in order, a bucket at a time; all ranks go through it together.

    A bucket's tensors are complete until the next one is asked for.
    """
    for bucket in buckets(pieces, limit=bucket_mib * MIB, size=zero.full_size):
        with zero.whole([source for piece in bucket for source in piece.sources]):
            yield [(piece.name, piece.part, piece.make()) for piece in bucket]


def buckets(
    pieces: Sequence[Piece], *, limit: int, size: Callable[[Tensor], int]
) -> Iterator[Sequence[Piece]]:
    """Neighbours together while what they are made of takes at most ``limit`` bytes; a larger one alone."""
    bucket: list[Piece] = []
    filled = 0
    for piece in pieces:
        needed = sum(size(source) for source in piece.sources)
        if bucket and filled + needed > limit:
            yield bucket
            bucket, filled = [], 0
        bucket.append(piece)
        filled += needed
    if bucket:
        yield bucket
