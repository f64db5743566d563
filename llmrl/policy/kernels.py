"""What a GPU does with a chunk of logits, in Triton: one read forward, one read and one write backward."""

# What triton.jit compiles looks like Python and is not; pyright knows nothing of its tensors and pointers.
# pyright: basic, reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def score(
    products: tl.tensor,
    bias: tl.tensor,
    targets: tl.tensor,
    logp: tl.tensor,
    normalizer: tl.tensor,
    out: tl.tensor,
    vocabulary: tl.tensor,
    scale: tl.tensor,
    has_bias: tl.constexpr,
    entropy: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Score one row: the online softmax, lane by lane, rescaled whenever a block has a new peak."""
    row = tl.program_id(0).to(tl.int64)
    start_of_row = products + row * vocabulary
    lanes = tl.arange(0, block)
    peak = float("-inf")
    total = tl.zeros([block], tl.float32)
    moment = tl.zeros([block], tl.float32)
    for start in range(0, vocabulary, block):
        inside = start + lanes < vocabulary
        logit = tl.load(start_of_row + start + lanes, mask=inside, other=float("-inf")) * scale
        if has_bias:
            logit += tl.load(bias + start + lanes, mask=inside, other=0.0).to(tl.float32) * scale
        higher = tl.maximum(peak, tl.max(logit, 0))
        fall = tl.where(start == 0, 0.0, peak - higher)
        shrink = tl.exp(fall)
        likely = tl.exp(logit - higher)
        if entropy:
            own = likely * tl.where(likely > 0.0, logit - higher, 0.0)
            moment = shrink * (moment + fall * total) + own
        total = shrink * total + likely
        peak = higher
    mass = tl.sum(total, 0)
    target = tl.load(targets + row)
    chosen = tl.load(start_of_row + target) * scale
    if has_bias:
        chosen += tl.load(bias + target).to(tl.float32) * scale
    spread_out = tl.log(mass)
    tl.store(logp + row, chosen - peak - spread_out)
    tl.store(normalizer + row, peak + spread_out)
    if entropy:
        tl.store(out + row, spread_out - tl.sum(moment, 0) / mass)


@triton.jit
def pull(
    products: tl.tensor,
    bias: tl.tensor,
    targets: tl.tensor,
    normalizer: tl.tensor,
    entropy: tl.tensor,
    gain: tl.tensor,
    spread: tl.tensor,
    made: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    scale: tl.tensor,
    has_bias: tl.constexpr,
    has_spread: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write a piece of one row: gain * (1 at the target - p) - spread * p * (logp + entropy)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    logp = tl.load(products + row * columns + column, mask=inside, other=0.0) * scale
    if has_bias:
        logp += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32) * scale
    logp -= tl.load(normalizer + row)
    own_gain = tl.load(gain + row)
    level = own_gain
    if has_spread:
        level += tl.load(spread + row) * (logp + tl.load(entropy + row))
    made_here = -tl.exp(logp) * level
    made_here += tl.where(column + first == tl.load(targets + row), own_gain, 0.0)
    tl.store(made + row * columns + column, made_here.to(made.dtype.element_ty), mask=inside)
