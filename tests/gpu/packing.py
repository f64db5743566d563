"""Packed attention is each sequence's own, forward and backward, in both dtypes, and keeps no scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llmrl.policy import attention
from tests.gpu.finding import NAMES, ROUNDING, Row, Sizes, grad_of, in_float32, off

LONG = 4096
"""Tokens of a sequence whose scores would be seen in the memory."""


def attention_rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Packed attention against plain softmax(QK)V of each sequence alone, in float32."""
    for dtype in (torch.float32, torch.bfloat16):
        for width in (64, 128):
            q, k, v = _attention_inputs(sizes.sequences, width, dtype, device)
            ours = _packed(q, k, v, sizes.sequences)
            exact = q32, k32, v32 = in_float32(q), in_float32(k), in_float32(v)
            right = _one_by_one(q32, k32, v32, sizes.sequences)
            pull = torch.randn_like(right)
            ours.backward(pull.to(ours.dtype))
            right.backward(pull)
            worst = max(
                off(ours, right),
                *(off(grad_of(a), grad_of(b)) for a, b in zip((q, k, v), exact, strict=True)),
            )
            way = "kernel" if attention._kernel_takes(q, v) else "padded"
            what = (
                f"packed attention ({way}), {NAMES[dtype]}, head {width}, and its gradients: worst difference"
            )
            yield Row(what=what, got=worst, limit=ROUNDING[dtype])
    if device.type == "cuda":
        yield from _memory_rows(device)


def _memory_rows(device: torch.device) -> Iterator[Row]:
    """What autograd keeps of one long sequence; all pairs' scores would be dozens of times as much."""
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = _attention_inputs((LONG,), 64, dtype, device)
        before = torch.cuda.memory_allocated(device)
        out = _packed(q, k, v, (LONG,))
        kept = (torch.cuda.memory_allocated(device) - before) / out.nbytes
        what = (
            f"packed attention, {NAMES[dtype]}, {LONG} tokens: kept until the backward pass, over its output"
        )
        yield Row(what=what, got=kept, limit=8)


def _attention_inputs(
    lengths: tuple[int, ...], width: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Query, key and value [1, heads, N, d] with three query heads for each key head."""
    shapes = [(1, heads, sum(lengths), width) for heads in (6, 2, 2)]
    return [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for shape in shapes]


def _packed(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    starts = torch.tensor([0, *lengths], device=q.device).cumsum(0, dtype=torch.int32)
    out, _ = attention.packed_attention(
        nn.Identity(), q, k, v, None, cu_seq_lens_q=starts, max_length_q=max(lengths)
    )
    return out


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[1, N, heads, d] with the mask written out."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    done: list[Tensor] = []
    for one_q, one_k, one_v in zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True):
        length = one_q.shape[2]
        scores = one_q @ one_k.transpose(-1, -2) / one_q.shape[-1] ** 0.5
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        done.append((scores.masked_fill(future, -torch.inf).softmax(-1) @ one_v).transpose(1, 2))
    return torch.cat(done, dim=1)
