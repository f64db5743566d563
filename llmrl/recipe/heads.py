"""Attention heads of a model that a recipe describes, and the numbers that transformers takes by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmrl.errors import shown

HEADS: Mapping[str, tuple[int, int | None]] = {
    "llama": (32, None),
    "mistral": (32, 8),
    "qwen2": (32, 32),
    "qwen3": (32, 32),
    "phi3": (32, None),
    "gemma": (16, 16),
    "gemma3_text": (8, 4),
    "mixtral": (32, 8),
    "qwen3_moe": (32, 4),
}
"""Default attention heads and key heads of transformers by model type; None: as many as attention heads."""


def head_shares(heads: int, keys: int) -> tuple[int, ...]:
    """Numbers of devices that can share ``heads`` attention heads; fewer key heads are copied, never cut."""
    counts = (n for n in range(1, heads + 1) if heads % n == 0)
    return tuple(n for n in counts if keys % n == 0 or n % keys == 0)


def head_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Report key heads that do not divide the attention heads: transformers builds them, but none can run."""
    kind = str(config.get("model_type"))
    default_heads, default_keys = HEADS.get(kind, (None, None))
    heads = config.get("num_attention_heads", default_heads)
    keys = config.get("num_key_value_heads", default_keys)
    if isinstance(heads, int) and isinstance(keys, int) and (keys < 1 or heads % keys):
        default = "" if "num_key_value_heads" in config else f", transformers' default for {shown(kind)}"
        yield (
            f"model.config.num_key_value_heads: expected a divisor of num_attention_heads = {heads}, "
            f"got {keys}{default}; set it to one."
        )
