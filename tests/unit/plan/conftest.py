"""Workloads and engines whose numbers are easy to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmrl.plan.architecture import Architecture, architecture_of
from llmrl.plan.lengths import Lengths
from llmrl.plan.placement import Placement
from llmrl.plan.rollout import Generation
from llmrl.plan.workload import Workload

QWEN: Mapping[str, Mapping[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


def qwen(size: str) -> Architecture:
    """A Qwen2.5 as its config.json says it."""
    return architecture_of({"model_type": "qwen2", **QWEN[size]}, where="here")


@pytest.fixture
def work() -> Workload:
    """1,024 responses of 500 tokens to prompts of 100, by Qwen2.5 7B in bfloat16."""
    return Workload(
        architecture=qwen("7B"),
        dtype="bfloat16",
        samples=1024,
        per_prompt=8,
        prompt_tokens=100,
        lengths=Lengths.of(np.full(10, 500.0), "all alike"),
        longest=500,
        generated=1024,
    )


@pytest.fixture
def place() -> Placement:
    """Four engines and four ranks."""
    return Placement(
        engines=4,
        tensor_parallel=1,
        ranks=4,
        zero_stage=1,
        lag=1,
        max_sequences=256,
        tokens_per_microbatch=8192,
        recomputes=False,
        offload="none",
        gpu_share=0.9,
        kv_cache_mib=None,
    )


@pytest.fixture
def generation_for() -> Callable[..., Generation]:
    """One engine's share of a step, at 10 ms a decode step and little more for each sequence in it."""

    def make(lengths: Lengths, *, samples: int, slots: float, **others: float) -> Generation:
        plain = Generation(
            samples=samples,
            slots=slots,
            mean=lengths.mean,
            square=lengths.square,
            longest=lengths.longest_of(samples),
            prompt=50,
            t0=0.010,
            t1=0.00005,
            t2=2e-8,
            prefill=0.0,
        )
        return replace(plain, **others)

    return make
