"""A tiny model on disk, made the way a recipe makes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.policy.model import prepare_model
from llmrl.recipe.schema import Model

TINY = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, tied embeddings, grouped queries, and weights so large that distributions are peaked."""
    model = Model(config=TINY, characters="0123456789+=,#", context_tokens=256)
    return prepare_model(model, folder=tmp_path_factory.mktemp("model") / "tiny", seed=0)
