"""Public models by their sizes; the weights are random, as speed does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _qwen2(hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": vocabulary < 152064,
        "max_position_embeddings": 32768,
    }


SHAPES: Mapping[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _qwen2(896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": _qwen2(1536, 8960, 28, 12, 2, 151936),
    # Half of its 28 layers: with gradients, master weights and Adam's states all of them exceed one GPU.
    "Qwen2.5-7B, 14 layers": _qwen2(3584, 18944, 14, 28, 4, 152064),
    "Qwen3-0.6B": {
        **_qwen2(1024, 3072, 28, 16, 8, 151936),
        "model_type": "qwen3",
        "head_dim": 128,
        "max_position_embeddings": 40960,
    },
}

TINY = {"tiny": _qwen2(128, 192, 2, 4, 2, 300)}
"""For machines without a GPU, where only the results count."""
