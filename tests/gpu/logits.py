"""The head without logits: right values and gradients, little memory, no more time than with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llmrl.footprint import CHUNK_LOGITS, CHUNK_TOKENS
from llmrl.policy.head import score_tokens
from tests.gpu.finding import NAMES, ROUNDING, Row, Sizes, grad_of, in_float32, median_of, off

NAIVE_COPIES = 7
"""Float32 copies of the logits that the naive head may hold; where they do not fit its time is left out."""

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def chunked_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logp, entropy = score_tokens(hidden, weight, targets, temperature=0.8, entropy=True)
    assert entropy is not None  # asked for
    return logp, entropy


def naive_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logp = ((hidden @ weight.t()).float() / 0.8).log_softmax(-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def head_rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The head without logits: values and gradients, and on a GPU its peak memory and time."""
    tokens, vocabulary, width = sizes.head
    size = f"T = {tokens:,}, V = {vocabulary:,}, H = {width}"
    for dtype in (torch.float32, torch.bfloat16):
        yield _head_difference(device, dtype, (min(tokens, 2048), vocabulary, width))
        if device.type == "cuda":
            name, inputs = NAMES[dtype], head_inputs(device, dtype, sizes.head)
            yield Row(
                what=f"head memory over the formula, {name}, {size}",
                got=memory_over_formula(inputs),
                limit=1.10,
            )
            seconds = _seconds(chunked_head, inputs)
            flops = 6 * tokens * vocabulary * width / seconds
            yield Row(what=f"head speed, {name}, counted as 6THV", got=flops / 1e12, unit="TFLOP/s")
            if torch.cuda.mem_get_info()[0] > NAIVE_COPIES * 4 * tokens * vocabulary:
                naive = _seconds(naive_head, inputs)
                yield Row(what=f"head time over naive, {name}, {size}", got=seconds / naive, limit=1.0)


def head_inputs(
    device: torch.device, dtype: torch.dtype, size: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, vocabulary, width = size
    hidden = torch.randn(tokens, width, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, device=device, dtype=dtype) * 0.05).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (tokens,), device=device)


def head_step(head: Head, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    inputs[0].grad = inputs[1].grad = None
    logp, entropy = head(*inputs)
    (-logp.mean() - 0.01 * entropy.mean()).backward()
    return logp.detach(), entropy.detach()


def _head_difference(device: torch.device, dtype: torch.dtype, size: tuple[int, int, int]) -> Row:
    inputs = head_inputs(device, dtype, size)
    exact = hidden, weight = in_float32(inputs[0]), in_float32(inputs[1])
    ours, right = head_step(chunked_head, inputs), head_step(naive_head, (hidden, weight, inputs[2]))
    values = [off(a, b) for a, b in zip(ours, right, strict=True)]
    gradients = [off(grad_of(a), grad_of(b)) for a, b in zip(inputs[:2], exact, strict=True)]
    what = f"head without logits, {NAMES[dtype]}, against float32 with them: worst difference"
    return Row(what=what, got=max(*values, *gradients), limit=ROUNDING[dtype])


def memory_over_formula(inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Peak bytes of a step above the inputs, over (V H + T H) w_grad + 2 C V 4."""
    (tokens, width), vocabulary = inputs[0].shape, inputs[1].shape[0]
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // vocabulary))
    least = (vocabulary + tokens) * width * inputs[0].element_size() + 2 * chunk * vocabulary * 4
    head_step(chunked_head, inputs)  # what the matrix library allocates once
    inputs[0].grad = inputs[1].grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    head_step(chunked_head, inputs)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / least


def _seconds(head: Head, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Median of seven steps after two."""
    return median_of(lambda: head_step(head, inputs))
