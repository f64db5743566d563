"""Models are built alike everywhere, loaded strictly and saved whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from llmrl.errors import ModelError
from llmrl.policy.folder import check_heads
from llmrl.policy.model import load_model, prepare_model, save_model
from llmrl.policy.scorer import TokenScorer
from llmrl.policy.tensors import adapter_pieces, pieces
from llmrl.recipe.schema import Lora, Model
from llmrl.weights.proof import stored_tensors

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
CHARACTERS = "0123456789+= "
TOKENS = torch.tensor([[1, 5, 9, 3, 14, 2]])


def built(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    model = Model(config={**CONFIG, **options}, characters=CHARACTERS)
    return prepare_model(model, folder=folder, seed=seed)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A good model folder that a test may damage."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def load(path: Path, **options: Any):
    return load_model(path, Model(path=str(path), **options))


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def plain_logits(folder: Path) -> Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder))


# -- building and loading


def test_a_model_is_built_from_a_config_with_its_tokenizer(good):
    config = json.loads((good / "config.json").read_text())

    assert config["vocab_size"] == 3 + len(CHARACTERS)
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 1, 2)
    assert AutoTokenizer.from_pretrained(good).encode("1+2") == [1, 4, 13, 5]


def test_equal_seeds_build_equal_weights_and_leave_the_random_state_alone(tmp_path):
    before = torch.get_rng_state()

    first, same, other = (built(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2)))

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(plain_logits(first), plain_logits(same))
    assert not torch.equal(plain_logits(first), plain_logits(other))


def test_a_model_that_is_there_already_is_taken_as_it_is(good):
    before = (good / "model.safetensors").stat().st_mtime_ns

    again = prepare_model(Model(config=CONFIG, characters=CHARACTERS), folder=good, seed=99)

    assert again == good
    assert (good / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_build_is_done_again(tmp_path):
    (tmp_path / "model.unfinished").mkdir()
    (tmp_path / "model.unfinished" / "config.json").write_text("{")

    built(tmp_path / "model")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_folder_is_its_own_path(good):
    assert prepare_model(Model(path=str(good)), folder=Path("unused"), seed=0) == good


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_gives_the_logits_of_transformers(tied, tmp_path):
    path = built(tmp_path / "model", tie_word_embeddings=tied)

    torch.testing.assert_close(logits(load(path)), plain_logits(path), rtol=1e-5, atol=1e-6)


def test_a_loaded_model_trains_without_dropout_in_the_asked_dtype(tmp_path):
    path = built(tmp_path / "model", attention_dropout=0.5)

    model = load(path, dtype="bfloat16", gradient_checkpointing=True)

    assert model.training
    assert model.is_gradient_checkpointing
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), logits(model))


# -- saving


def on_disk(model: PreTrainedModel) -> dict[str, Tensor]:
    return {piece.name: piece.make() for piece in pieces(model)}


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_reloads_to_the_same_logits_names_and_tokenizer(tied, tmp_path):
    path = built(tmp_path / "model", tie_word_embeddings=tied)
    model = load(path)

    save_model(model, on_disk(model), tokenizer_folder=path, folder=tmp_path / "saved")

    assert torch.equal(plain_logits(tmp_path / "saved"), plain_logits(path))
    assert stored_tensors(tmp_path / "saved") == stored_tensors(path)
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()
    torch.testing.assert_close(logits(load(tmp_path / "saved")), logits(model))


def test_a_generation_config_that_transformers_would_not_write_is_kept_byte_for_byte(folder, tmp_path):
    text = '{"temperature": 0.6, "top_p": 0.95, "eos_token_id": [2, 3]}'
    (folder / "generation_config.json").write_text(text)
    model = load(folder)

    save_model(model, on_disk(model), tokenizer_folder=folder, folder=tmp_path / "saved")

    assert (tmp_path / "saved" / "generation_config.json").read_text() == text


def test_a_model_without_a_generation_config_is_saved_with_its_own_end(folder, tmp_path):
    (folder / "generation_config.json").unlink()
    model = load(folder)

    save_model(model, on_disk(model), tokenizer_folder=folder, folder=tmp_path / "saved")

    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_names_and_shapes_are_those_on_disk_with_tied_tensors_once(good):
    model = load(good)

    assert {n: tuple(t.shape) for n, t in on_disk(model).items()} == stored_tensors(good)
    assert "lm_head.weight" in model.state_dict()
    assert "lm_head.weight" not in on_disk(model)


def test_adapters_alone_are_trained_and_change_nothing_at_first(good):
    model = load(good, lora=Lora(rank=4))

    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    torch.testing.assert_close(logits(model), logits(load(good)))
    assert TokenScorer(model).vocabulary == 16


def test_adapters_begin_the_same_on_every_rank(good):
    first, second = load(good, lora=Lora(rank=4)), load(good, lora=Lora(rank=4))

    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def with_random_adapters(good: Path):
    model = load(good, lora=Lora(rank=4, alpha=12.0, targets=("q_proj", "down_proj")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.5)
    return model


def test_adapters_are_merged_into_copies(good, tmp_path):
    model = with_random_adapters(good)
    adapted, before = logits(model), {k: v.clone() for k, v in model.state_dict().items()}

    save_model(model, on_disk(model), tokenizer_folder=good, folder=tmp_path / "saved")

    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert stored_tensors(tmp_path / "saved") == stored_tensors(good)
    torch.testing.assert_close(plain_logits(tmp_path / "saved"), adapted, rtol=1e-4, atol=1e-5)
    assert (plain_logits(good) - adapted).abs().max() > 0.01


def test_a_merged_weight_is_base_plus_scaled_product(good):
    model = with_random_adapters(good)
    state = model.state_dict()
    name = "model.layers.1.mlp.down_proj"

    merged = on_disk(model)[f"{name}.weight"]

    product = state[f"{name}.lora_B.default.weight"] @ state[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(merged, state[f"{name}.base_layer.weight"] + 12 / 4 * product)
    assert {n: tuple(t.shape) for n, t in on_disk(model).items()} == stored_tensors(good)


def built_with_experts(folder: Path) -> Path:
    config = {key: value for key, value in CONFIG.items() if key != "head_dim"}
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    model = Model(config={**config, **experts, "moe_intermediate_size": 16}, characters=CHARACTERS)
    return prepare_model(model, folder=folder, seed=0)


def test_experts_get_no_adapters_and_what_is_trained_is_what_travels(tmp_path):
    path = built_with_experts(tmp_path / "model")

    with pytest.raises(
        ModelError, match=r"model\.lora\.targets: PEFT would adapt model\.layers\.0\.mlp.*q_proj"
    ):
        load(path, lora=Lora(rank=4))

    model = load(path, lora=Lora(rank=4, targets=("q_proj", "v_proj")))
    trained = [p for p in model.parameters() if p.requires_grad]
    travel = [source for piece in adapter_pieces(model) for source in piece.sources]
    assert {id(p) for p in trained} == {id(p) for p in travel}


def test_a_mixture_of_experts_is_saved_as_it_was(tmp_path):
    path = built_with_experts(tmp_path / "model")
    model = load(path)

    save_model(model, on_disk(model), tokenizer_folder=path, folder=tmp_path / "saved")

    before, after = (load_file(folder / "model.safetensors") for folder in (path, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_porj",), r"model\.lora\.targets: no layer named 'q_porj'\. Did you mean 'q_proj'"),
        (("embed_tokens",), "'embed_tokens' names a layer of kind Embedding; only linear"),
    ],
)
def test_adapters_in_the_wrong_place_are_refused(targets, said, good):
    with pytest.raises(ModelError, match=said):
        load(good, lora=Lora(targets=targets))


def test_adapters_on_matrices_that_are_stored_transposed_are_refused(tmp_path):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 2048}
    path = prepare_model(
        Model(config={"model_type": "gpt2", **sizes}, characters=CHARACTERS),
        folder=tmp_path / "model",
        seed=0,
    )

    with pytest.raises(
        ModelError, match=r"model\.lora\.targets: PEFT would adapt transformer\.h\.0\.attn\.c_"
    ):
        load(path, lora=Lora(rank=4))


def test_an_adapted_head_is_refused(tmp_path):
    path = built(tmp_path / "model", tie_word_embeddings=False)

    with pytest.raises(ModelError, match="leave the head out of"):
        TokenScorer(load(path, lora=Lora(targets=("lm_head",))))


# -- folders and configs that must be refused, each by one sentence


def edit_json(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(**changes: Any):
    return lambda folder: edit_json(folder / "config.json", **changes)


def drop_norm(tensors: dict[str, Tensor]) -> None:
    del tensors["model.norm.weight"]


def drop_layer(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def add_tensor(tensors: dict[str, Tensor]) -> None:
    tensors["model.extra.weight"] = torch.zeros(3)


def cut_norm(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(31)


def spoil(value: float):
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = value

    return change


def weights(change: Any):
    return lambda folder: edit_weights(folder, change)


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapters_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}

DAMAGE = {
    "no folder": (shutil.rmtree, "there is no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config cut off": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "must hold one JSON object"),
    "adapters only": (adapters_only, "holds adapters, not a model"),
    "code of its own": (
        edit_config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        "brings Python code of its own, which is not run",
    ),
    "images": (edit_config(text_config={"hidden_size": 8}), "reads more than text; use a text-only model"),
    "quantized": (edit_config(quantization_config={"quant_method": "gptq"}), "is quantized"),
    "unknown kind": (edit_config(model_type="qwen99"), "has model_type 'qwen99', which this transformers"),
    "no causal model": (edit_config(model_type="bert_japanese"), "does not know as a causal language model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "bin only": (only_bin, "has only .bin files"),
    "lost shard": (lost_shard, "lacks model-00002-of-00002.safetensors"),
    "cut file": (truncate, "bytes, its header says"),
    "missing tensor": (weights(drop_norm), "lacks model.norm.weight; its config.json and"),
    "missing layer": (weights(drop_layer), r"lacks model.layers.1.\S+ and 10 more"),
    "unknown tensor": (weights(add_tensor), "has model.extra.weight, which its config knows nothing of"),
    "more layers than config": (edit_config(num_hidden_layers=1, layer_types=None), "which its config knows"),
    "other shape": (weights(cut_norm), "has model.norm.weight in another shape"),
    "other width": (edit_config(intermediate_size=64), "in another shape than its config says"),
    "NaN": (weights(spoil(float("nan"))), "mlp.up_proj.weight of .* has values that are not finite"),
    "infinity": (weights(spoil(float("inf"))), "mlp.up_proj.weight of .* has values that are not finite"),
    "small vocabulary": (edit_config(vocab_size=15), "has 16 tokens, but its config has vocab_size 15"),
    "short context": (edit_config(max_position_embeddings=512), "model.context_tokens is 1024, but .* 512"),
    "long positions": (
        edit_config(rope_parameters=LONG_ROPE | {"original_max_position_embeddings": 512}),
        "model.context_tokens is 1024, but .* 'longrope', .* beyond 512 tokens, .* use at most 512.",
    ),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer.json"),
    "impossible config": (edit_config(hidden_size="wide"), "has an invalid config.json: .*hidden_size"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_bad_model_folder_is_refused_in_one_sentence(case, folder):
    damage, said = DAMAGE[case]
    damage(folder)

    with pytest.raises(ModelError, match=said) as caught:
        load(folder)

    assert str(caught.value).startswith("model.")
    assert "\n" not in str(caught.value)


def test_long_positions_do_no_harm_where_nothing_is_long(folder):
    edit_config(rope_parameters=LONG_ROPE | {"original_max_position_embeddings": 1024})(folder)

    load(folder)


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"model_type": "qwen33"}, r"model_type: no model named 'qwen33'. Did you mean 'qwen3'\?"),
    "no kind": ({"model_type": None}, "model_type: no model named 'None'"),
    "key": ({"hiden_size": 3}, "qwen3 has no key named 'hiden_size'. Did you mean 'hidden_size'"),
    "type": ({"hidden_size": "wide"}, "transformers cannot build this qwen3: .*hidden_size"),
    "heads": ({"num_attention_heads": 0}, "transformers cannot build this qwen3"),
    "vocabulary": ({"vocab_size": 5}, "model.config.vocab_size is 5, but model.characters makes 16 tokens"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_refused_and_leaves_nothing_behind(case, tmp_path):
    change, said = BAD_CONFIGS[case]

    with pytest.raises(ModelError, match=said):
        built(tmp_path / "model", **change)

    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_neither_folder_nor_hub_name_is_refused(tmp_path):
    with pytest.raises(ModelError, match="'no/such-model' is neither a folder nor a model of the hub"):
        prepare_model(Model(path="no/such-model"), folder=tmp_path / "model", seed=0)


@pytest.mark.parametrize("sharers", [[1], [2, 1], [4]])
def test_ranks_that_divide_the_heads_may_share_sequences(sharers, good):
    # Four query heads, two key heads: four ranks have a copy of one each.
    check_heads(Model(config=CONFIG), good, sharers=sharers)
    check_heads(Model(path=str(good)), good, sharers=sharers)


def test_ranks_that_do_not_divide_the_heads_are_refused_before_the_model_is_built(tmp_path):
    said = "sequence_parallel: 3 ranks cannot share the 4 attention heads .* 2 key heads; use one of 1, 2, 4."

    with pytest.raises(ModelError, match=said):
        check_heads(Model(config=CONFIG), tmp_path / "not there", sharers=[1, 3])
