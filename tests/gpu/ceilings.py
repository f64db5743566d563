"""Run R1: what this GPU reaches at best in the shapes that a policy has: the constants that `plan` wants.

    python -m tests.gpu.ceilings [--device cuda|cpu]        (from the repository's root)

Matrix products forward and backward, copies on the device and to pinned memory of the host, attention over
packed sequences, and with several GPUs the collectives of ZeRO and of a weight sync. Nothing here has a
target: other runs are compared with it. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch import multiprocessing as mp
from torch.multiprocessing.spawn import spawn

from llmrl.policy.attention import packed_attention
from tests.gpu.finding import Row, median_of, place, report
from tests.gpu.shapes import SHAPES, TINY

TOKENS = 16384
ATTENTION_TOKENS, SEQUENCES, HEADS = 32768, (2048, 16384), ((64, 14), (128, 28))
"""Head dimension and number of heads."""
COPY = 2**30
"""Bytes."""


def rows(device: torch.device) -> Iterator[Row]:
    on_gpu = device.type == "cuda"
    yield from product_rows(device, tokens=TOKENS if on_gpu else 64)
    yield from copy_rows(device, size=COPY if on_gpu else 2**16)
    yield from attention_rows(device, scale=1 if on_gpu else 256)
    if on_gpu and torch.cuda.device_count() > 1:
        yield from collective_rows(torch.cuda.device_count())


def product_rows(device: torch.device, *, tokens: int) -> Iterator[Row]:
    """A layer's matrices and the head's, in bfloat16, with both gradients."""
    for name, config in (SHAPES if device.type == "cuda" else TINY).items():
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        layer = [(hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
        for part, matrices in (("layer", layer), ("head", [(hidden, config["vocab_size"])])):
            flops = sum(6 * tokens * a * b for a, b in matrices)
            seconds = sum(median_of(_product(device, tokens, a, b)) for a, b in matrices)
            yield Row(what=f"{name}, {part}, {tokens:,} tokens", got=flops / seconds / 1e12, unit="TFLOP/s")


def _product(device: torch.device, tokens: int, inputs: int, outputs: int) -> Callable[[], None]:
    """y = x W, dx = dy W' and dW = x' dy."""
    shapes = ((tokens, inputs), (inputs, outputs), (tokens, outputs))
    x, w, y = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)
    dx, dw = torch.empty_like(x), torch.empty_like(w)

    def work() -> None:
        torch.mm(x, w, out=y)
        torch.mm(y, w.t(), out=dx)
        torch.mm(x.t(), y, out=dw)

    return work


def copy_rows(device: torch.device, *, size: int) -> Iterator[Row]:
    here, there = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    seconds = median_of(lambda: there.copy_(here))
    yield Row(what="copy on the device, bytes read and written", got=2 * size / seconds / 1e12, unit="TB/s")
    yield Row(what="pinned host to device", got=size / median_of(lambda: here.copy_(host)) / 1e9, unit="GB/s")
    yield Row(what="device to pinned host", got=size / median_of(lambda: host.copy_(here)) / 1e9, unit="GB/s")


def attention_rows(device: torch.device, *, scale: int) -> Iterator[Row]:
    """Causal attention over packed sequences with its gradients, counted as three times forward."""
    tokens = ATTENTION_TOKENS // scale
    for (width, heads), length in ((head, n // scale) for head in HEADS for n in SEQUENCES):
        ends = torch.arange(0, tokens + 1, length, device=device, dtype=torch.int32)
        shape = (1, heads, tokens, width)
        listed = [torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"]
        pull = torch.randn(1, tokens, heads, width, device=device, dtype=torch.bfloat16)
        seconds = median_of(partial(_attention, listed, ends, length, pull))
        flops = 3 * 2 * heads * width * length**2 * (tokens // length)
        what = f"packed attention and gradients, sequences of {length:,}, {heads} heads of {width}"
        yield Row(what=what, got=flops / seconds / 1e12, unit="TFLOP/s")


def _attention(listed: list[Tensor], ends: Tensor, length: int, pull: Tensor) -> None:
    q, k, v = listed
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, cu_seq_lens_q=ends, max_length_q=length)
    torch.autograd.grad(out, listed, pull)


def collective_rows(ranks: int) -> list[Row]:
    """Bytes that each GPU receives, or reduces, over the time of the collective."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found: Any = mp.get_context("spawn").SimpleQueue()
    spawn(_collectives, args=(ranks, port, found), nprocs=ranks)
    return [Row(what=f"{name} over {ranks} GPUs", got=rate / 1e9, unit="GB/s") for name, rate in found.get()]


def _collectives(rank: int, ranks: int, port: int, found: Any) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    part = torch.zeros(COPY // ranks, dtype=torch.uint8, device="cuda")
    whole = torch.zeros(part.numel() * ranks, dtype=torch.uint8, device="cuda")
    halves, sums = whole.view(torch.bfloat16), part.view(torch.bfloat16)
    works = {
        "all-gather": partial(dist.all_gather, list(whole.chunk(ranks)), part),
        "reduce-scatter": partial(dist.reduce_scatter, sums, list(halves.chunk(ranks))),
        "broadcast": partial(dist.broadcast, whole, 0),
    }
    rates = [(name, whole.numel() / median_of(work)) for name, work in works.items()]
    if rank == 0:
        found.put(rates)
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stdout.write("skipped: R1 measures a GPU, and torch finds none here.\n")
        return 0
    return report(rows(device), where=place(device))


if __name__ == "__main__":
    sys.exit(main())
