"""The softmax of chunks of logits by the kernels of a GPU, or by Triton's interpreter on a CPU."""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
from torch import Tensor

from llmrl.policy.kernels import pull, score
from llmrl.policy.softmax import chunk_of

ROW_BLOCK, PULL_BLOCK = 4096, 1024
"""Logits that a program holds at once: one of its row's blocks forward, its only block backward."""

SCORE, PULL = cast("Any", score), cast("Any", pull)
"""The kernels, whose launches have no types. Triton warns unless told whether to fuse multiply and add."""


class FusedSoftmax:
    """The counterpart of :class:`llmrl.policy.softmax.Softmax` for kernels; computes in float32."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, temperature: float, entropy: bool, size: int
    ) -> None:
        self._weight, self._bias, self._temperature = weight, bias, temperature
        self._entropy = entropy
        self._space = weight.new_empty(size, dtype=torch.float32)
        # A pull is written over its logits where it is as wide as they are.
        self._narrow = self._space if weight.dtype == torch.float32 else None

    def score(self, hidden: Tensor, targets: Tensor, logp: Tensor, normalizer: Tensor, out: Tensor) -> None:
        """See :meth:`llmrl.policy.softmax.Softmax.score`."""
        products = self._products(hidden, self._weight)
        SCORE[(products.shape[0],)](
            products,
            products if self._bias is None else self._bias,
            targets,
            logp,
            normalizer,
            out,
            products.shape[1],
            1 / self._temperature,
            has_bias=self._bias is not None,
            entropy=self._entropy,
            block=ROW_BLOCK,
            num_warps=8,
            enable_fp_fusion=True,
        )

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
        """See :meth:`llmrl.policy.softmax.Softmax.pull`."""
        products = self._products(hidden, self._weight[block])
        if self._narrow is None:
            self._narrow = torch.empty_like(self._space, dtype=self._weight.dtype)
        tokens, columns = products.shape
        made = chunk_of(self._narrow, hidden, self._weight[block])
        PULL[(tokens, triton.cdiv(columns, PULL_BLOCK))](
            products,
            products if self._bias is None else self._bias[block],
            targets,
            normalizer,
            entropy,
            gain,
            gain if spread is None else spread,
            made,
            columns,
            block.start,
            1 / self._temperature,
            has_bias=self._bias is not None,
            has_spread=spread is not None,
            block=PULL_BLOCK,
            num_warps=4,
            enable_fp_fusion=True,
        )
        return made

    def _products(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """[m, v] hidden @ weight.T, not rounded: rounding would cost 0.06 nats at a logit of 20."""
        out = chunk_of(self._space, hidden, weight)
        if hidden.dtype == out.dtype:
            return torch.mm(hidden, weight.t(), out=out)
        if hidden.is_cuda:
            return torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
        return out.copy_(hidden @ weight.t())
