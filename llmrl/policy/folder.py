"""A model folder before anything is loaded from it: files, config and vocabulary, in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmrl.errors import ModelError, shown
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.heads import head_shares
from llmrl.recipe.schema import Model
from llmrl.weights.header import INDEX
from llmrl.weights.proof import stored_tensors

BAD_CONFIG = (ValueError, TypeError, KeyError, AttributeError, OSError, ArithmeticError, StrictDataclassError)
"""Errors that transformers raises for a config that describes no model."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Config keys, one of which every mixture of experts has."""


def find_folder(model: Model) -> Path:
    """The folder of ``model.path``; a model of the hub is downloaded first.

    Raises:
        ModelError: it is neither a folder nor a model of the hub that can be reached.
    """
    path = model.folder
    if path.is_dir():
        return path.absolute()
    code = ["*.py"] if model.trusts_code else []
    try:
        wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", *code]
        return Path(snapshot_download(str(model.path), allow_patterns=wanted))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"model.path: {shown(model.path)} is neither a folder nor a model of the hub that can be reached "
            f"({shown(str(error))}); check the spelling, or download it first."
        ) from error


def has_experts(model: Model) -> bool:
    """Whether a model, in a folder or to be built, is a mixture of experts."""
    config = model.config if model.config is not None else _read_config(find_folder(model))
    return any(config.get(key) for key in EXPERTS)


def check_folder(path: Path, model: Model) -> None:
    """Refuse a folder that cannot be trained as the recipe says, without reading its weights.

    Raises:
        ModelError: what is missing or wrong, and what to do about it.
    """
    written = _read_config(path)
    _check_code(path, written, model)
    _check_kind(path, written, model)
    _check_weights(path)
    stored_tensors(path)
    config = load_config(path, model)
    _check_lengths(path, config, model)
    _check_vocabulary(path, config, model)


def load_config(path: Path, model: Model) -> PreTrainedConfig:
    """The folder's config as transformers understands it.

    Raises:
        ModelError: a value that no such model can have.
    """
    trusted = model.trusts_code
    try:
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(path, trust_remote_code=trusted))
    except BAD_CONFIG as error:
        raise ModelError(
            f"model.path: {shown(str(path))} has an invalid config.json: {one_line(error)}"
        ) from error


def check_length(path: Path, config: PreTrainedConfig, tokens: int, *, key: str) -> None:
    """Refuse texts that are longer than the model has positions for.

    Raises:
        ModelError: ``key`` asks for more ``tokens`` than the model has positions; the message has both.
    """
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and tokens > longest:
        raise ModelError(
            f"{key} is {tokens}, but {shown(str(path))} was made for at most {longest} tokens; lower it."
        )


def check_heads(model: Model, path: Path, *, sharers: Iterable[int]) -> None:
    """Refuse attention heads that cannot be divided among the ranks that share a sequence.

    Args:
        model: the recipe's first table, which may describe a model that is not built yet.
        path: the model's folder, present or future.
        sharers: ``policy.sequence_parallel`` of every stage.

    Raises:
        ModelError: they cannot; the message has the number of heads, and what would fit.
    """
    for ranks in {*sharers} - {1}:
        config = load_config(path, model) if model.config is None else _described(model.config)
        sizes = config.to_dict()
        heads = int(sizes[config.attribute_map.get("num_attention_heads", "num_attention_heads")])
        keys = int(sizes.get("num_key_value_heads") or heads)
        fits = head_shares(heads, keys)
        if ranks not in fits:
            raise ModelError(
                f"policy.sequence_parallel: {ranks} ranks cannot share the {heads} attention heads of this "
                f"model, which have {keys} key heads; use one of {', '.join(map(str, fits))}."
            )


def _described(given: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(**given)
    except BAD_CONFIG as error:
        raise ModelError(f"model.config: transformers makes no model of it: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """A foreign error message as part of one sentence."""
    return shown(" ".join(str(error).split()), limit=200) + "."


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ModelError(f"model.path: there is no folder {shown(str(path))}.")
    file = path / "config.json"
    if not file.exists() and (path / "adapter_config.json").exists():
        raise ModelError(
            f"model.path: {shown(str(path))} holds adapters, not a model; merge them into their base first."
        )
    if not file.exists():
        raise ModelError(f"model.path: {shown(str(path))} has no config.json, so it is not a model folder.")
    return _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model.path: {shown(str(file))} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"model.path: {shown(str(file))} must hold one JSON object.")
    return cast("dict[str, Any]", content)


def _check_code(path: Path, config: dict[str, Any], model: Model) -> None:
    if "auto_map" in config and not model.trusts_code:
        raise ModelError(
            f"model.path: {shown(str(path))} brings Python code of its own, which is not run; if you have "
            f"read it and trust it, set model.trust_remote_code = {shown(model.path)}."
        )


def _check_kind(path: Path, config: dict[str, Any], model: Model) -> None:
    kind = config.get("model_type")
    if "quantization_config" in config:
        raise ModelError(
            f"model.path: {shown(str(path))} is quantized and cannot be trained; use the original weights."
        )
    if isinstance(config.get("text_config"), dict):
        raise ModelError(
            f"model.path: {shown(str(path))} has model_type {shown(kind)}, which reads more than text; "
            "use a text-only model, such as one of model_type gemma3_text."
        )
    trusted = "auto_map" in config and model.trusts_code
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not trusted:
        raise ModelError(
            f"model.path: {shown(str(path))} has model_type {shown(kind)}, which this transformers does not "
            f"know as a causal language model; use one like qwen3 or llama."
        )


def _check_weights(path: Path) -> None:
    if (path / "model.safetensors").exists():
        return
    if (path / INDEX).exists():
        shards = {str(name) for name in _read(path / INDEX).get("weight_map", {}).values()}
        if lost := sorted(shard for shard in shards if not (path / shard).exists()):
            raise ModelError(
                f"model.path: {shown(str(path))} lacks {lost[0]}, which its index names; download it again."
            )
        return
    if any(path.glob("*.bin")):
        raise ModelError(
            f"model.path: {shown(str(path))} has only .bin files, which can run code when they are read; "
            f"convert them to safetensors."
        )
    raise ModelError(f"model.path: {shown(str(path))} has no model.safetensors.")


def _check_lengths(path: Path, config: PreTrainedConfig, model: Model) -> None:
    check_length(path, config, model.context_tokens, key="model.context_tokens")
    for short in _lengths_of_long_rope(config.to_dict().get("rope_parameters") or {}):
        if model.context_tokens > short:
            raise ModelError(
                f"model.context_tokens is {model.context_tokens}, but {shown(str(path))} has the rope_type "
                f"'longrope', which turns differently beyond {short} tokens, and transformers "
                f"then does so for every sequence that shares a pass with a longer one; use at most {short}."
            )


def _lengths_of_long_rope(rope: Mapping[str, Any]) -> Iterator[int]:
    """Lengths up to which the rotation stays the same: for the whole model, or for a kind of layer.

    ``dynamic`` depends on the longest sequence too, but changes nothing within ``max_position_embeddings``.
    """
    if rope.get("rope_type") == "longrope":
        yield int(rope["original_max_position_embeddings"])
    for part in rope.values():
        if isinstance(part, dict):
            yield from _lengths_of_long_rope(cast("dict[str, Any]", part))


def _check_vocabulary(path: Path, config: PreTrainedConfig, model: Model) -> None:
    rows = config.to_dict().get("vocab_size")
    # transformers would make up an empty tokenizer from the config alone.
    if not any((path / name).exists() for name in VOCABULARIES):
        raise ModelError(
            f"model.path: {shown(str(path))} has no tokenizer.json, so nothing can be read or written."
        )
    known = load_tokenizer(model.model_copy(update={"path": str(path), "config": None})).vocabulary
    if isinstance(rows, int) and rows < known:
        raise ModelError(
            f"model.path: the tokenizer of {shown(str(path))} has {known} tokens, but its config has "
            f"vocab_size {rows}; they do not belong together."
        )
