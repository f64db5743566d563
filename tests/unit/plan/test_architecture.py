"""Parameters, KV cache and FLOPs of a decoder, against transformers and against published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmrl.errors import ModelError
from llmrl.plan.architecture import FAMILIES, Architecture, architecture_of, read_architecture
from llmrl.recipe.schema import Lora, Model
from llmrl.weights.layout import Layout

from .conftest import qwen

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 100,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


@pytest.mark.parametrize(
    ("size", "matrices", "kv_bytes"),
    [("0.5B", 0.494e9, 12_288), ("1.5B", 1.543e9, 28_672), ("7B", 7.07e9, 57_344)],
)
def test_qwen_has_the_sizes_that_are_published(size: str, matrices: float, kv_bytes: int) -> None:
    shape = qwen(size)

    assert shape.matrices == pytest.approx(matrices, rel=2e-3)
    assert shape.kv_bytes(2) == kv_bytes


def built(kind: str) -> tuple[Architecture, Any]:
    """A family in small: as the plan counts it, and as transformers builds it."""
    config = cast("Any", CONFIG_MAPPING[kind])
    given = SMALL | (EXPERTS if FAMILIES[kind].experts else {})
    if kind == "mixtral":
        del given["moe_intermediate_size"]  # its experts have the width of intermediate_size
    with torch.device("meta"):
        model = cast("Any", AutoModelForCausalLM).from_config(config(**given))
    return architecture_of({"model_type": kind, **given}, where="here"), model


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_known_family_is_counted_as_transformers_builds_it(kind: str) -> None:
    shape, model = built(kind)

    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_engine_loads_as_many_tensors_as_the_policy_sends(kind: str) -> None:
    shape, model = built(kind)

    assert shape.tensors == len(Layout(model, dict(model.named_parameters())).names)


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_go_where_transformers_has_linear_layers(kind: str) -> None:
    shape, model = built(kind)
    linear = {
        name.rpartition(".")[2]: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and ".layers.0." in name
    }

    assert linear == shape.projections


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_takes(kind: str) -> None:
    theirs = cast("Any", CONFIG_MAPPING[kind])()

    ours = architecture_of({"model_type": kind}, where="here")

    assert (ours.layers, ours.hidden, ours.heads) == (
        theirs.num_hidden_layers,
        theirs.hidden_size,
        theirs.num_attention_heads,
    )
    assert (ours.kv_heads, ours.vocabulary, ours.tied) == (
        theirs.num_key_value_heads,
        theirs.vocab_size,
        theirs.tie_word_embeddings,
    )


def test_a_token_is_multiplied_with_its_own_experts_alone() -> None:
    shape = architecture_of({"model_type": "qwen3_moe", **SMALL, **EXPERTS}, where="here")

    expert = 3 * 64 * 48
    attention = 2 * 64 * 24 * (4 + 2)
    assert shape.matrices == 3 * (attention + 2 * expert + 64 * 4) + 100 * 64


def test_flops_of_a_pass_are_two_a_weight_and_those_of_causal_attention() -> None:
    shape = qwen("0.5B")

    # Ten sequences of 100 tokens: each token sees half of the others on average.
    attention = 2 * 24 * (14 * 64) * 10 * 100**2
    assert shape.forward_flops(1000, 10 * 100**2) == 2 * shape.matrices * 1000 + attention


def test_adapters_are_two_thin_matrices_beside_each_target() -> None:
    shape = qwen("0.5B")

    assert shape.adapter_parameters(Lora(rank=4, targets=("q_proj",))) == 24 * 4 * (896 + 896)
    assert shape.adapter_parameters(Lora(rank=4, targets=("down_proj",))) == 24 * 4 * (4864 + 896)


def test_targets_are_known_by_their_last_name_and_no_other_is_left_out() -> None:
    shape = qwen("0.5B")
    plain = shape.adapter_parameters(Lora(rank=4, targets=("q_proj",)))

    assert shape.adapter_parameters(Lora(rank=4, targets=("self_attn.q_proj",))) == plain
    for target in ("lm_head", "qkv_proj"):
        with pytest.raises(ModelError, match=rf"^model\.lora\.targets: .* '{target}' .* of qwen2; .* q_proj"):
            shape.adapter_parameters(Lora(rank=4, targets=("q_proj", target)))


def test_a_layer_that_is_fused_has_fewer_and_wider_adapters() -> None:
    shape, _ = built("phi3")

    fused = shape.adapter_parameters(Lora(rank=4, targets=("qkv_proj",)))
    assert fused == 3 * 4 * (64 + 24 * (4 + 2 + 2))
    assert shape.adapter_parameters(Lora(rank=4)) == fused + 3 * 4 * (
        (4 * 24 + 64) + (64 + 2 * 96) + (96 + 64)
    )


def test_experts_get_no_adapters() -> None:
    shape, _ = built("qwen3_moe")

    assert shape.adapter_parameters(Lora(rank=4, targets=("q_proj",))) == 3 * 4 * (64 + 4 * 24)
    with pytest.raises(
        ModelError, match=r"^model\.lora\.targets: .* experts .* name some of q_proj.* o_proj\.$"
    ):
        shape.adapter_parameters(Lora(rank=4))


def test_a_key_head_is_copied_where_it_cannot_be_shared() -> None:
    shape = qwen("7B")  # four key heads

    assert [shape.kv_bytes(2) / shape.kv_bytes_on(n, 2) for n in (1, 2, 4, 8)] == [1, 2, 4, 4]


def test_an_inline_model_has_a_row_for_each_character_and_three_more() -> None:
    model = Model(config={"model_type": "qwen3", "hidden_size": 64}, characters="0123456789")

    assert read_architecture(model).vocabulary == 13


def test_a_folder_is_read_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 7}))

    assert read_architecture(Model(path=str(tmp_path))).layers == 7


def test_a_model_that_is_not_here_is_not_downloaded() -> None:
    with pytest.raises(ModelError) as refused:
        read_architecture(Model(path="Qwen/Qwen2.5-7B"))

    assert str(refused.value) == (
        "model.path: 'Qwen/Qwen2.5-7B' is no folder here, and the plan downloads nothing; "
        "give the model's config.json with --config."
    )


def test_an_unknown_kind_of_model_is_said_to_be_unknown() -> None:
    with pytest.raises(ModelError, match=r"cannot count the parameters of 'zamba2'.* Known: gemma, "):
        architecture_of({"model_type": "zamba2"}, where="model.config")
    with pytest.raises(ModelError, match=r"num_hidden_layers: expected a positive integer, got 'many'"):
        architecture_of({"model_type": "llama", "num_hidden_layers": "many"}, where="model.config")


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", "64"), ("num_attention_heads", 0), ("vocab_size", -1), ("num_hidden_layers", True)],
)
def test_a_size_that_is_no_count_is_refused_before_anything_is_derived_from_it(
    key: str, value: object
) -> None:
    with pytest.raises(ModelError) as refused:
        architecture_of({"model_type": "llama", key: value}, where="model.config")

    assert str(refused.value) == f"model.config: {key}: expected a positive integer, got {value!r}."


def test_a_dense_model_may_say_that_it_has_no_experts() -> None:
    given = {"model_type": "llama", "num_local_experts": 0, "num_experts_per_tok": 0}

    assert architecture_of(given, where="here").experts == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON: "),
        ("[]", "must hold one JSON object."),
        ('{"model_type": "zamba2"}', "model_type: the plan cannot count"),
    ],
)
def test_a_wrong_config_is_blamed_on_whoever_named_it(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)

    with pytest.raises(ModelError) as typed:
        read_architecture(Model(path="Qwen/Qwen2.5-7B"), config=file)
    with pytest.raises(ModelError) as written:
        read_architecture(Model(path=str(tmp_path)))

    assert str(typed.value).startswith(f"--config: '{file}'")
    assert str(written.value).startswith(f"model.path: '{file}'")
    assert problem in str(typed.value)


def test_a_config_that_is_not_here_is_named_as_it_was_typed() -> None:
    with pytest.raises(ModelError) as refused:
        read_architecture(Model(path="Qwen/Qwen2.5-7B"), config=Path("there/confg.json"))

    assert str(refused.value) == (
        "--config: no config.json at 'there/confg.json'; name that file, or the folder that holds it."
    )
