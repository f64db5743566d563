"""The softmax of chunks of logits, in buffers that it keeps: the head's work between matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


class Softmax:
    """The softmax of one pass over a head; ``llmrl.policy.fused`` has the same for GPUs."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, temperature: float, entropy: bool, size: int
    ) -> None:
        """Make the buffers.

        Args:
            weight: [V, H] weight of the head.
            bias: [V] or None.
            temperature: temperature of the softmax.
            entropy: whether it is wanted, or has a gradient; costs a buffer.
            size: logits of the largest chunk.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._weight, self._bias, self._temperature = weight, bias, temperature
        self._spaces = [weight.new_empty(size, dtype=wide) for _ in range(2 if entropy else 1)]
        self._entropy = entropy

    def score(self, hidden: Tensor, targets: Tensor, logp: Tensor, normalizer: Tensor, out: Tensor) -> None:
        """Write logprob, log-normalizer and (if wanted) entropy of some tokens, [m] each."""
        offset = None if self._bias is None else self._bias.to(logp.dtype) / self._temperature
        logits = self._logits(hidden, self._weight, offset)
        peak = logits.amax(-1, keepdim=True)
        chosen = logits.sub_(peak).gather(-1, targets[:, None]).squeeze(-1)
        likely = torch.exp(logits, out=self._spaces[-1][: logits.numel()].view_as(logits))
        total = likely.sum(-1)
        torch.log(total, out=normalizer)
        torch.sub(chosen, normalizer, out=logp)
        if self._entropy:
            torch.sub(normalizer, _row_dot(likely, logits) / total, out=out)
        normalizer += peak.squeeze(-1)

    def pull(
        self,
        hidden: Tensor,
        block: slice,
        targets: Tensor,
        *,
        normalizer: Tensor,
        entropy: Tensor,
        gain: Tensor,
        spread: Tensor | None,
    ) -> Tensor:
        """d loss / d logits of all tokens at a block of the vocabulary, [T, v] in the weight's dtype.

        Args:
            hidden: [T, H].
            block: slice of the vocabulary.
            targets: [T].
            normalizer: [T] as ``score`` wrote it.
            entropy: [T] as ``score`` wrote it; not read without ``spread``.
            gain: [T] gradients of the logprobs over the temperature.
            spread: [T] the same of the entropies; None where they have none.
        """
        offset = -normalizer[:, None]
        if self._bias is not None:
            offset = offset + self._bias[block].to(offset.dtype) / self._temperature
        logp = self._logits(hidden, self._weight[block], offset)
        pull = _pull(logp, gain, spread, entropy, self._spaces[-1])
        _add_at_targets(pull, targets - block.start, gain)
        return pull.to(self._weight.dtype)

    def _logits(self, hidden: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
        """[m, v] logits over temperature, plus the offset."""
        out = chunk_of(self._spaces[0], hidden, weight)
        if hidden.dtype == out.dtype:
            start, beta = (out, 0) if offset is None else (offset, 1)
            return torch.addmm(start, hidden, weight.t(), beta=beta, alpha=1 / self._temperature, out=out)
        out.copy_(hidden @ weight.t()).div_(self._temperature)
        return out if offset is None else out.add_(offset)


def chunk_of(space: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    """The part of a buffer with shape [m, v] that holds the product of ``hidden`` and ``weight``."""
    return space[: hidden.shape[0] * weight.shape[0]].view(hidden.shape[0], weight.shape[0])


def _row_dot(left: Tensor, right: Tensor) -> Tensor:
    """[m] dot products of rows without a third [m, v]."""
    return torch.bmm(left[:, None, :], right[:, :, None]).view(-1)


def _pull(logp: Tensor, gain: Tensor, spread: Tensor | None, entropy: Tensor, space: Tensor) -> Tensor:
    """Write all but the targets' own term into ``space``; overwrites ``logp``, [T, v] logprobs.

    Per token, with p = exp(logp) and entropy e: ``- gain * p - spread * p * (logp + e)``.
    """
    likely = torch.exp(logp, out=space[: logp.numel()].view_as(logp))
    if spread is None:
        return likely.mul_(-gain[:, None])
    level = -(gain + spread * entropy)
    return likely.mul_(torch.addcmul(level[:, None], logp, spread[:, None], value=-1, out=logp))


def _add_at_targets(pull: Tensor, column: Tensor, gain: Tensor) -> None:
    """Add each token's gain at its target, where that lies in this block of the vocabulary."""
    here = (column >= 0) & (column < pull.shape[1])
    pull.scatter_add_(1, column.where(here, 0)[:, None], gain.where(here, 0)[:, None])
