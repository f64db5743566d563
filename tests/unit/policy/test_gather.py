"""Buckets of tensors: in order, none above its limit but by one tensor alone."""

from __future__ import annotations

from torch import Tensor, empty

from llmrl.policy.gather import buckets
from llmrl.policy.tensors import Piece


def piece(name: str, *sizes: int) -> Piece:
    return Piece(name=name, sources=tuple(empty(size) for size in sizes), make=lambda: empty(0))


def size(tensor: Tensor) -> int:
    return tensor.numel()


def test_neighbours_share_a_bucket_up_to_the_limit_and_a_larger_one_goes_alone() -> None:
    made = [piece("a", 3), piece("b", 2), piece("c", 9), piece("d", 1), piece("e", 2, 2), piece("f", 1)]

    filled = [[one.name for one in bucket] for bucket in buckets(made, limit=5, size=size)]

    assert filled == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_nothing_makes_no_bucket() -> None:
    assert list(buckets([], limit=5, size=size)) == []
