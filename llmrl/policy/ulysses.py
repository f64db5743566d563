"""Ulysses: ranks that share the tokens of a micro-batch, for sequences longer than one of them can hold.

Each rank has a slice of the packed tokens in every layer. Around attention the slices are exchanged for
shares of the heads, so that attention sees whole sequences. Jacobs et al. 2023, arXiv:2309.14509; the
exchange is DeepSpeed's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from deepspeed.sequence.layer import DistributedAttention
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from llmrl.batches.collate import Inputs

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function from query, key and value [1, heads, N, d] to [1, N, heads, d]."""


class Ulysses:
    """One rank among those that share its micro-batches; all call the same methods in the same order."""

    def __init__(self, size: int) -> None:
        """Group the ranks of the default process group into neighbours of ``size``; every rank calls it."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks, size)]
        self._size, self._place, self._group = size, rank % size, groups[rank // size]
        # Its annotations name classes of DeepSpeed's own; any callable and torch's groups are what it takes.
        self._exchange = cast("Any", DistributedAttention)(_attend, self._group, scatter_idx=2, gather_idx=1)

    def share(self, inputs: Inputs) -> tuple[Inputs, Tensor]:
        """This rank's slice of a micro-batch, and [m] which of the targets are its own.

        The boundaries stay those of whole sequences. If the ranks do not divide the tokens, a sequence of
        padding follows, from which nothing is predicted.
        """
        tokens = inputs.tokens.shape[1]
        each = -(-tokens // self._size)
        first, spare = self._place * each, self._size * each - tokens
        mine = torch.nonzero(inputs.predict_at // each == self._place).view(-1)
        ends = inputs.cu_seqlens
        part = Inputs(
            tokens=pad(inputs.tokens, (0, spare))[:, first : first + each],
            positions=pad(inputs.positions, (0, spare))[:, first : first + each],
            cu_seqlens=torch.cat([ends, ends[-1:] + spare]) if spare else ends,
            max_length=max(inputs.max_length, spare),
            predict_at=inputs.predict_at[mine] - first,
            targets=inputs.targets[mine],
        )
        return part, mine

    def attend(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over all tokens; each rank has a slice of them and gets that slice's result.

        Args:
            attention: attention over whole sequences, for some of the heads.
            query: [1, heads, n, d]; the heads divide by the ranks.
            key: [1, key heads, n, d]; repeated where there are fewer heads than ranks.
            value: as ``key``.
        """
        copies = max(1, self._size // key.shape[1])
        keys, values = (x.repeat_interleave(copies, dim=1) if copies > 1 else x for x in (key, value))
        here = (x.transpose(1, 2) for x in (query, keys, values))
        return self._exchange(*here, 0, attention=attention)

    def join(self, scores: Tensor, mine: Tensor, targets: int) -> Tensor:
        """[M] scores of all targets on every rank; each gradient returns to the rank that made the score."""
        return cast("Tensor", _Join.apply(scores, mine, targets, self._group))


class _Join(torch.autograd.Function):
    """Joins scores: every rank computes the same loss from them, and takes its part of the one gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mine: Tensor, targets: int, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(mine)
        whole = scores.new_zeros(targets).index_copy(0, mine, scores)
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mine,) = ctx.saved_tensors
        return grad_outputs[0][mine], None, None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, *, attention: Attention) -> Tensor:
    """Attend over all tokens with some of the heads, as DeepSpeed exchanged them: [1, N, heads, d] each."""
    return attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
