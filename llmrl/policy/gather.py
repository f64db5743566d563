"""The policy's tensors gathered bucket by bucket, so that no rank ever holds a whole sharded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from llmrl.policy.tensors import Piece
from llmrl.policy.zero import Zero
from llmrl.weights.outbox import Tensors

MIB = 2**20


def gathered(zero: Zero, pieces: Sequence[Piece], *, bucket_mib: int) -> Iterator[Tensors]:
    """Gather all pieces in order, a bucket at a time; all ranks iterate together.

    A bucket's tensors are complete until the next one is asked for.
    """
    for bucket in buckets(pieces, limit=bucket_mib * MIB, size=zero.full_size):
        with zero.whole([source for piece in bucket for source in piece.sources]):
            yield [(piece.name, piece.part, piece.make()) for piece in bucket]


def buckets(
    pieces: Sequence[Piece], *, limit: int, size: Callable[[Tensor], int]
) -> Iterator[Sequence[Piece]]:
    """Group neighbours whose sources take at most ``limit`` bytes together; a larger one stays alone."""
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
