"""Small random models, peaked enough that a wrong token shows, and packed inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from llmrl.batches.collate import Inputs
from llmrl.policy.attention import PACKED

SIZES = {
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

MakeModel = Callable[..., PreTrainedModel]
MakeInputs = Callable[..., Inputs]


@pytest.fixture
def make_model() -> MakeModel:
    """A random model by its transformers name; equal seeds give equal weights, whatever its attention."""

    def make(kind: str, *, attention: str = PACKED, seed: int = 0, **options: Any) -> PreTrainedModel:
        config = cast("Any", CONFIG_MAPPING[kind])(**{**SIZES, **options})
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.3)
        return model

    return make


@pytest.fixture
def make_inputs() -> MakeInputs:
    """Random sequences of the given lengths, end to end; every token but each first one is a target."""

    def make(*lengths: int, seed: int = 0, vocabulary: int = 23) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.tensor([0, *lengths]).cumsum(0)
        tokens = torch.randint(0, vocabulary, (1, int(starts[-1])), generator=generator)
        inside = [torch.arange(int(a), int(b) - 1) for a, b in pairwise(starts)]
        predict_at = torch.cat(inside)
        return Inputs(
            tokens=tokens,
            positions=torch.cat([torch.arange(n) for n in lengths])[None],
            cu_seqlens=starts.to(torch.int32),
            max_length=max(lengths),
            predict_at=predict_at,
            targets=tokens[0, predict_at + 1],
        )

    return make
