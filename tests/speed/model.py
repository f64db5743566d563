"""The model of the benchmarks: 10.7 million parameters, so that Python's share of a step is small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrl.policy.model import prepare_model
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Policy, Prompts, Source, Stage

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXY"
VOCABULARY = 3 + len(CHARACTERS)
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 320,
    "intermediate_size": 960,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}

WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
"""What grows with the width."""


def build_model(folder: Path, *, width: int = 1) -> Path:
    """Qwen3 with 64 tokens: padding, begin, end and 61 characters.

    Args:
        folder: where a folder of its own is made for it.
        width: times that of ``CONFIG``; bytes grow with its square.
    """
    wide = {key: width * CONFIG[key] for key in WIDTHS}
    model = Model(config=CONFIG | wide, characters=CHARACTERS, context_tokens=512)
    return prepare_model(model, folder=folder / f"model-{width}", seed=0)


def stage_for(model: Path, *, zero_stage: int = 1, tokens_per_microbatch: int = 1024) -> Stage:
    """The model under GRPO, at the recipe's defaults otherwise."""
    return Stage(
        model=Model(path=str(model), context_tokens=512),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        engines=Engines(kind="vllm", max_sequences=128),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=100, lr=1e-6),
        policy=Policy.model_validate(
            {"zero_stage": zero_stage, "tokens_per_microbatch": tokens_per_microbatch}
        ),
    )
