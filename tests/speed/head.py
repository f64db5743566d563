"""Time and peak memory of logprob and entropy, against the naive formula and the theoretical minimum.

    .venv/bin/python tests/speed/head.py [--pairs 5] [--entropy off] [TOKENSxVOCABULARY ...]

Prints, for each size, CPU time over the naive formula's (median of interleaved A B B A pairs and its
range), and peak bytes of forward and backward over (V H + T H) 4 + 2 C V 4, each side in a process of
its own. Ends with 1 if the gradients differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from llmrl.footprint import CHUNK_LOGITS, CHUNK_TOKENS
from llmrl.policy.head import score_tokens

WIDTH = 512
NAIVE_LIMIT = 6 << 30
"""Bytes above which the naive side is left out: it holds about five float32 copies of the logits."""

Scores = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    logp = (hidden @ weight.t()).log_softmax(-1)
    spread = -(logp.exp() * logp).sum(-1) if entropy else None
    return logp.gather(-1, targets[:, None])[:, 0], spread


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    return score_tokens(hidden, weight, targets, temperature=1.0, entropy=entropy)


def example(tokens: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    weight = torch.empty(vocabulary, WIDTH).normal_(std=0.05).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (tokens,))


def step(scores: Scores, inputs: tuple[Tensor, Tensor, Tensor], entropy: bool) -> float:
    """CPU seconds of one forward and backward; gradients end up on the inputs."""
    hidden, weight, _ = inputs
    hidden.grad = weight.grad = None
    start = time.process_time()
    logp, spread = scores(*inputs, entropy)
    loss = -logp.mean() if spread is None else -logp.mean() - 0.01 * spread.mean()
    loss.backward()
    return time.process_time() - start


def time_ratios(tokens: int, vocabulary: int, entropy: bool, pairs: int) -> list[float]:
    """Chunked over naive, one per A B B A."""
    inputs = example(tokens, vocabulary)
    step(naive, inputs, entropy)
    step(chunked, inputs, entropy)
    ratios: list[float] = []
    for _ in range(pairs):
        first, second, third, fourth = (
            step(side, inputs, entropy) for side in (chunked, naive, naive, chunked)
        )
        ratios.append((first + fourth) / (second + third))
    return ratios


def difference(tokens: int, vocabulary: int, entropy: bool) -> float:
    """Largest relative difference of the two gradients."""
    inputs = example(tokens, vocabulary)
    found: list[list[Tensor]] = []
    for side in (chunked, naive):
        step(side, inputs, entropy)
        found.append([x.grad for x in inputs[:2] if x.grad is not None])
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))


def peak_bytes(scores: Scores, tokens: int, vocabulary: int, entropy: bool) -> int:
    """Most memory above what the inputs take, during one forward and backward of this process.

    It is the second one: in the first, MKL takes 10 MB to work in, and keeps them.
    """
    torch.set_num_threads(1)
    inputs = example(tokens, vocabulary)
    step(scores, inputs, entropy)
    for tensor in inputs[:2]:
        tensor.grad = None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no part of what is there before
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step(scores, inputs, entropy)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def in_own_process(scores: Scores, tokens: int, vocabulary: int, entropy: bool) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_bytes, scores, tokens, vocabulary, entropy).result(timeout=600)


def report(tokens: int, vocabulary: int, entropy: bool, pairs: int) -> Iterator[str]:
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // vocabulary))
    least = 4 * WIDTH * (vocabulary + tokens) + 2 * chunk * vocabulary * 4
    ours = in_own_process(chunked, tokens, vocabulary, entropy)
    yield f"T={tokens} V={vocabulary} H={WIDTH} C={chunk} entropy={'on' if entropy else 'off'}"
    yield f"  memory over the formula  {ours / least:.3f}  ({ours >> 20} MiB)"
    if 5 * 4 * tokens * vocabulary > NAIVE_LIMIT:
        yield "  naive side left out: it would not fit"
        return
    theirs = in_own_process(naive, tokens, vocabulary, entropy)
    ratios = time_ratios(tokens, vocabulary, entropy, pairs)
    yield f"  memory over naive        {ours / theirs:.3f}  ({theirs >> 20} MiB)"
    yield f"  time over naive          {statistics.median(ratios):.3f}  ({min(ratios):.3f}-{max(ratios):.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "sizes", nargs="*", default=["1024x32768", "4096x32768", "1024x151936", "4096x151936"]
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--entropy", choices=["on", "off"], default="on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    entropy = options.entropy == "on"
    worst = difference(300, 5000, entropy)
    sys.stdout.write(f"largest relative difference of a gradient: {worst:.1e}\n")
    for size in options.sizes:
        tokens, vocabulary = map(int, size.split("x"))
        for line in report(tokens, vocabulary, entropy, options.pairs):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
