"""The last layer of a language model, as logprob and entropy of chosen tokens, never as a matrix of logits.

Forward keeps two numbers per token and throws each chunk of logits away; backward makes them again. A
float32 ``[M, V]`` never exists, which for 16k tokens of a 152k vocabulary saves 10 GB five times over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_LOGITS, CHUNK_TOKENS = 1 << 23, 256
"""Logits in memory at once by default, 32 MiB in float32; but at least as many tokens as fill a core."""


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
        temperature: of the softmax, as in sampling.
        entropy: also return it; costs a third buffer and a little time.
        bias: [V] or None.
        chunk: tokens whose logits are in memory at once; never changes a result beyond rounding.

    Returns:
        [M] nats each, float32 (float64 for float64 input), with gradients to hidden, weight and bias.

    Raises:
        ValueError: shapes that do not belong together; gathering would silently cut the longer one.
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
    """A language model's head that scores tokens; it shares the very Parameters of the head it is made from.

    A module of its own, so that ZeRO-3 gathers the weight around its forward and its backward.
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
    """Chunks of rows forward (a softmax needs whole rows), blocks of the vocabulary backward.

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
        spaces = [logp.new_empty(rows * weight.shape[0]) for _ in range(2 if entropy else 1)]
        offset = None if bias is None else bias.to(wide) / temperature
        for part in _slices(targets.shape[0], rows):
            logits = _logits(hidden[part], weight, offset, temperature, spaces[0])
            peak = logits.amax(-1, keepdim=True)
            chosen = logits.sub_(peak).gather(-1, targets[part, None]).squeeze(-1)
            likely = torch.exp(logits, out=spaces[-1][: logits.numel()].view_as(logits))
            total = likely.sum(-1)
            normalizer[part] = total.log()
            logp[part] = chosen - normalizer[part]
            if entropy:
                uncertainty[part] = normalizer[part] - _row_dot(likely, logits) / total
            normalizer[part] += peak.squeeze(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer, uncertainty)
        ctx.temperature, ctx.rows, ctx.entropy = temperature, rows, entropy
        return logp, uncertainty if entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_logp, grad_entropy = cast("tuple[Tensor, Tensor | None]", grad_outputs)
        hidden, weight, bias, targets, normalizer, uncertainty = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_hidden = torch.zeros(hidden.shape, dtype=normalizer.dtype, device=hidden.device)
        grad_weight = torch.empty_like(weight) if wanted[1] else None
        grad_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        gain = grad_logp / ctx.temperature
        spread = grad_entropy / ctx.temperature if ctx.entropy and grad_entropy is not None else None
        vocabulary, tokens = weight.shape[0], targets.shape[0]
        columns = min(vocabulary, max(1, ctx.rows * vocabulary // max(1, tokens)))
        spaces = [normalizer.new_empty(tokens * columns) for _ in range(1 if spread is None else 2)]
        offset = -normalizer[:, None]
        for block in _slices(vocabulary, columns):
            here = offset if bias is None else offset + bias[block].to(offset.dtype) / ctx.temperature
            log_likely = _logits(hidden, weight[block], here, ctx.temperature, spaces[0])
            pull = _pull_on_logits(log_likely, gain, spread, uncertainty, spaces[-1])
            _add_at_targets(pull, targets - block.start, gain)
            if grad_bias is not None:
                grad_bias[block] = pull.sum(0).to(grad_bias.dtype)
            narrow = pull.to(weight.dtype)
            if grad_weight is not None:
                torch.mm(narrow.t(), hidden, out=grad_weight[block])
            _add_product(grad_hidden, narrow, weight[block])
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None, None, None


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _logits(
    hidden: Tensor, weight: Tensor, offset: Tensor | None, temperature: float, space: Tensor
) -> Tensor:
    """[m, v] logits over temperature, plus the offset, written into ``space``."""
    out = space[: hidden.shape[0] * weight.shape[0]].view(hidden.shape[0], weight.shape[0])
    if hidden.dtype == out.dtype:
        start, beta = (out, 0) if offset is None else (offset, 1)
        return torch.addmm(start, hidden, weight.t(), beta=beta, alpha=1 / temperature, out=out)
    if hidden.is_cuda:
        # Half-precision inputs, but no rounding of the products: worth 0.06 nats at a logit of 20.
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    else:
        out.copy_(hidden @ weight.t())
    out.div_(temperature)
    return out if offset is None else out.add_(offset)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _row_dot(left: Tensor, right: Tensor) -> Tensor:
    """[m] dot products of rows without a third [m, v]."""
    return torch.bmm(left[:, None, :], right[:, :, None]).view(-1)


def _pull_on_logits(
    logp: Tensor, gain: Tensor, spread: Tensor | None, uncertainty: Tensor, space: Tensor
) -> Tensor:
    """d loss / d logits without the targets' own term, in ``space``; overwrites ``logp``, [M, v] logprobs.

    Per token, with p = exp(logp) and entropy e: ``- gain * p - spread * p * (logp + e)``.
    """
    likely = torch.exp(logp, out=space[: logp.numel()].view_as(logp))
    if spread is None:
        return likely.mul_(-gain[:, None])
    level = -(gain + spread * uncertainty)
    return likely.mul_(torch.addcmul(level[:, None], logp, spread[:, None], value=-1, out=logp))


def _add_at_targets(pull: Tensor, column: Tensor, gain: Tensor) -> None:
    """Add each token's gain at its target, where that lies in this block of the vocabulary."""
    here = (column >= 0) & (column < pull.shape[1])
    pull.scatter_add_(1, column.where(here, 0)[:, None], gain.where(here, 0)[:, None])
