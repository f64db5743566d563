"""The last layer of a language model as logprob and entropy of chosen tokens, never as a matrix of logits.

Forward keeps two numbers per token and throws each chunk of logits away; backward makes them again. A
float32 ``[M, V]`` never exists, which for 16k tokens of a 152k vocabulary saves 10 GB five times over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmrl.footprint import CHUNK_LOGITS, CHUNK_TOKENS
from llmrl.policy.softmax import Softmax

if TYPE_CHECKING:
    from llmrl.policy.fused import FusedSoftmax

ALIGNED = 128
"""Multiple of columns to which blocks of the vocabulary are rounded."""


def score_tokens(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    entropy: bool,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logprob and entropy of softmax((hidden @ weight.T + bias) / temperature) at the target tokens.

    Args:
        hidden: [M, H] states that predict the targets; M may be 0.
        weight: [V, H], same dtype as ``hidden``.
        targets: [M] int64 token ids.
        temperature: temperature of the softmax, as in sampling.
        entropy: whether to return it too; costs a third buffer and a little time.
        bias: [V] or None.
        chunk: tokens whose logits are in memory at once; never changes a result beyond rounding.

    Returns:
        [M] nats each, float32 (float64 for float64 input), with gradients to hidden, weight and bias.

    Raises:
        ValueError: the shapes do not match; gathering would silently cut the longer one.
    """
    if targets.shape != hidden.shape[:1] or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} "
            f"must be [M, H], [V, H] and [M]."
        )
    rows = chunk or max(CHUNK_TOKENS, CHUNK_LOGITS // weight.shape[0])
    logp, uncertainty = cast(
        "tuple[Tensor, Tensor | None]",
        _ScoreTokens.apply(hidden, weight, bias, targets, temperature, rows, entropy),
    )
    return logp, uncertainty


class TokenHead(nn.Module):
    """A language model's head that scores tokens; it shares the Parameters of the head it is made from.

    It is a module, so that ZeRO-3 gathers the weight around its forward and its backward.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """See :func:`score_tokens`."""
        return score_tokens(
            hidden, self.weight, targets, temperature=temperature, entropy=entropy, bias=self.bias
        )


class _ScoreTokens(torch.autograd.Function):
    """Scores rows in chunks forward (a softmax needs whole rows), in blocks of the vocabulary backward.

    With log-normalizers kept from forward, backward needs no whole rows; a block of the vocabulary then
    gives its rows of the weight's gradient in one matrix product, rounded once, with no float32 copy of it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        rows: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp = torch.empty(targets.shape, dtype=wide, device=hidden.device)
        normalizer, uncertainty = torch.empty_like(logp), torch.empty_like(logp)
        rows = min(rows, max(1, targets.shape[0]))
        softmax = _softmax_for(hidden)(
            weight, bias, temperature=temperature, entropy=entropy, size=rows * weight.shape[0]
        )
        for part in _slices(targets.shape[0], rows):
            softmax.score(hidden[part], targets[part], logp[part], normalizer[part], uncertainty[part])
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer, uncertainty)
        ctx.temperature, ctx.rows = temperature, rows
        # Most losses leave the entropy alone; its zeros would cost a buffer, and time at every logit.
        ctx.set_materialize_grads(False)
        return logp, uncertainty if entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_logp, grad_entropy = cast("tuple[Tensor | None, Tensor | None]", grad_outputs)
        hidden, weight, bias, targets, normalizer, uncertainty = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_hidden = torch.zeros(hidden.shape, dtype=normalizer.dtype, device=hidden.device)
        grad_weight = torch.empty_like(weight) if wanted[1] else None
        grad_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        gain = torch.zeros_like(normalizer) if grad_logp is None else grad_logp / ctx.temperature
        spread = None if grad_entropy is None else grad_entropy / ctx.temperature
        vocabulary, tokens = weight.shape[0], targets.shape[0]
        columns = _aligned(min(vocabulary, max(1, ctx.rows * vocabulary // max(1, tokens))))
        softmax = _softmax_for(hidden)(
            weight, bias, temperature=ctx.temperature, entropy=spread is not None, size=tokens * columns
        )
        for block in _slices(vocabulary, columns):
            pull = softmax.pull(
                hidden, block, targets, normalizer=normalizer, entropy=uncertainty, gain=gain, spread=spread
            )
            if grad_bias is not None:
                grad_bias[block] = pull.sum(0, dtype=normalizer.dtype).to(grad_bias.dtype)
            if grad_weight is not None:
                torch.mm(pull.t(), hidden, out=grad_weight[block])
            _add_product(grad_hidden, pull, weight[block])
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None, None, None


def _softmax_for(hidden: Tensor) -> type[Softmax] | type[FusedSoftmax]:
    """The fused softmax on a GPU and under Triton's interpreter, except in float64; else the plain one."""
    fused = hidden.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    if not fused or hidden.dtype == torch.float64:
        return Softmax
    from llmrl.policy.fused import FusedSoftmax  # noqa: PLC0415  Triton is there where a GPU is

    return FusedSoftmax


def _aligned(columns: int) -> int:
    """Round columns down, if that aligns the rows of a block for tensor cores."""
    return columns - columns % ALIGNED if columns > ALIGNED else columns


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
