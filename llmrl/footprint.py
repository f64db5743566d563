"""Sizes that processes choose by themselves, and that the plan counts with: one number for both."""

from __future__ import annotations

from collections.abc import Mapping

GRADIENT_BUCKET: Mapping[str, int] = {"cpu": 4_000_000, "cuda": 500_000_000}
"""Most gradients that are reduced together. On a GPU it is DeepSpeed's own default; its buffer is new in
every backward pass, and on a CPU most of a larger one's time would go into fresh pages."""

CHUNK_LOGITS, CHUNK_TOKENS = 1 << 23, 256
"""Logits in memory at once by default, 32 MiB in float32; but at least as many tokens as fill a core."""

CUDA_RESIDUE = 600_000_000
"""Bytes that a process keeps on its GPU, also while others have it: CUDA's context and libraries. Assumed."""

CPU_KV_CACHE_MIB = 256
"""KV cache of a vLLM engine on CPU where the recipe says none."""

BATCHED_TOKENS: Mapping[str, int] = {"cpu": 4096, "cuda": 8192}
"""Tokens of an engine's forward pass, if its responses do not need more. Of its own accord vLLM 0.32 takes
2048 on any GPU, as it has larger defaults for its two front doors alone."""


def forward_tokens(device: str, *, sequences: int, context: int) -> int:
    """Most tokens of one forward pass of an engine.

    At least ``BATCHED_TOKENS``, a token of each response and one to score, and on CPU, which reads no prompt
    in part, a whole context.

    Args:
        device: ``cpu`` or ``cuda``.
        sequences: ``engines.max_sequences``.
        context: ``model.context_tokens``.
    """
    return max(BATCHED_TOKENS[device], sequences + 1, context if device == "cpu" else 0)
