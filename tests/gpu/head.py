"""Run R3: time and memory of the head in bfloat16, against the matrix products it cannot do without.

    python -m tests.gpu.head [--tokens 16384,65536] [--widths 896,1536,3584] [--vocabulary 151936]

Prints one table and ends with 1 if a ratio misses its limit; says so and ends with 0 where there is no GPU.
A head needs 2THV FLOPs forward and 4THV backward; how long those take is measured at the same shapes. The
naive formula, and what torch.compile makes of it, stand beside it where their logits fit into memory.
Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, product

import torch
from torch import Tensor

from llmrl.policy.head import score_tokens
from tests.gpu.finding import Row, median_of, report
from tests.gpu.logits import (
    NAIVE_COPIES,
    Head,
    chunked_head,
    head_inputs,
    head_step,
    memory_over_formula,
    naive_head,
)

WHOLE_STEP, LOGPROB_ONLY = 1.5, 1.15
"""Most times over the bare matrix products, forward and backward with entropy, and logprobs alone."""

PIECE = 4096
"""Rows of logits that the bare products make at once."""


def r3_rows(tokens: int, width: int, vocabulary: int) -> Iterator[Row]:
    size = f"T = {tokens:,}, V = {vocabulary:,}, H = {width}"
    inputs = head_inputs(torch.device("cuda"), torch.bfloat16, (tokens, vocabulary, width))
    bare = _products(inputs)
    yield Row(what=f"2THV, {size}", got=2 * tokens * width * vocabulary / bare / 1e12, unit="TFLOP/s")
    step = median_of(lambda: head_step(chunked_head, inputs))
    yield Row(what=f"head forward and backward over 6THV, {size}", got=step / (3 * bare), limit=WHOLE_STEP)
    forward = median_of(lambda: _logp_alone(inputs))
    yield Row(what=f"head logprobs alone over 2THV, {size}", got=forward / bare, limit=LOGPROB_ONLY)
    yield Row(what=f"head memory over the formula, {size}", got=memory_over_formula(inputs), limit=1.10)
    compiled: Head = torch.compile(naive_head, dynamic=False)
    for name, head in (("naive", naive_head), ("torch.compile", compiled)):
        if torch.cuda.mem_get_info()[0] > NAIVE_COPIES * 4 * tokens * vocabulary:
            other = median_of(lambda head=head: head_step(head, inputs))
            yield Row(what=f"head time over {name}, {size}", got=step / other, limit=1.0)
            torch.cuda.empty_cache()


def _products(inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of hidden @ weight.T in bfloat16, in pieces that fit into memory."""
    hidden, weight = inputs[0].detach(), inputs[1].detach().t()
    out = hidden.new_empty(min(PIECE, hidden.shape[0]), weight.shape[1])

    def work() -> None:
        for piece in hidden.split(PIECE):
            torch.mm(piece, weight, out=out[: piece.shape[0]])

    return median_of(work)


@torch.no_grad()
def _logp_alone(inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return score_tokens(*inputs, temperature=0.8, entropy=False)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", default="16384,65536")
    parser.add_argument("--widths", default="896,1536,3584")
    parser.add_argument("--vocabulary", type=int, default=151936)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stdout.write("skipped: R3 measures a GPU, and torch finds none here.\n")
        return 0
    sizes = product(options.tokens.split(","), options.widths.split(","))
    listed = (r3_rows(int(tokens), int(width), options.vocabulary) for tokens, width in sizes)
    return report(chain.from_iterable(listed), where=torch.cuda.get_device_name())


if __name__ == "__main__":
    sys.exit(main())
