"""The model folder's tensors found in those that transformers holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from llmrl.weights.layout import Layout

SIZES = {
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe": {"n_routed_experts": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    "gpt_oss": {"num_local_experts": 4},
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    kind = cast("str", request.param)
    config = cast("Any", CONFIG_MAPPING[kind])(**{**SIZES, **KINDS[kind]})
    torch.manual_seed(0)
    cast("Any", AutoModelForCausalLM).from_config(config).save_pretrained(tmp_path)
    return cast("Any", AutoModelForCausalLM).from_pretrained(tmp_path)


def test_names_shapes_and_values_are_those_of_the_folder(model: PreTrainedModel, tmp_path: Path) -> None:
    on_disk = load_file(tmp_path / "model.safetensors")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if known(name, model)}

    layout = Layout(model, tensors)

    assert layout.names == set(on_disk)
    stored = layout.stored(tensors)
    assert set(stored) == set(on_disk)
    assert all(torch.equal(stored[name], tensor) for name, tensor in on_disk.items())
    sent = layout.sent([(name, "whole", tensor) for name, tensor in tensors.items()])
    assert {name for name, _, _ in sent} == set(on_disk)
    assert all(torch.equal(tensor, on_disk[name]) for name, _, tensor in sent)


def test_what_is_written_into_the_folder_s_tensors_is_written_into_the_model(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    layout = Layout(model, model.state_dict())
    changed = {name: tensor + 1 for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with torch.no_grad():
        for name, tensor in layout.stored(model.state_dict()).items():
            if name in changed:
                tensor.copy_(changed[name])

    assert all(torch.equal(tensor, before[name] + 1) for name, tensor in model.state_dict().items())


def test_an_adapter_has_the_name_of_what_it_changes(model: PreTrainedModel, tmp_path: Path) -> None:
    layout = Layout(model, model.state_dict())
    name = "model.layers.1.self_attn.q_proj.weight"

    sent = layout.sent([(name, "down", torch.ones(2, 32))])

    assert [(its, part) for its, part, _ in sent] == [(name, "down")]
    assert name in load_file(tmp_path / "model.safetensors")


def known(name: str, model: PreTrainedModel) -> bool:
    """Of a tied pair only the first is in the folder."""
    return not (model.config.tie_word_embeddings and name == "lm_head.weight")
