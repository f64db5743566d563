"""Models on disk and in memory: built small, loaded strictly, saved whole. The policy's door to transformers.

Whatever is wrong with a model folder is said in one sentence; transformers alone would fill missing
tensors with random numbers, pad a vocabulary or run code that came with the weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from llmrl.errors import ModelError, did_you_mean, shown
from llmrl.policy.attention import PACKED
from llmrl.policy.folder import BAD_CONFIG, check_folder, find_folder, load_config, one_line
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""Files that transformers may write for a tokenizer; copied as is, so that an export tokenizes alike."""

GENERATION_FILE = "generation_config.json"

disable_progress_bar()  # one line per rank and file, between the run's own


def prepare_model(model: Model, *, folder: Path, seed: int) -> Path:
    """The folder of the recipe's model; a model of ``model.config`` is built into ``folder`` first.

    Args:
        model: the recipe's model table.
        folder: folder of a new model; one that exists is used as it is.
        seed: seed of the new model's weights; the same on every machine.

    Raises:
        ModelError: a config that describes no model, or a path that is neither a folder nor a hub name.
    """
    if model.config is None:
        return find_folder(model)
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _build(model, model.config, seed).save_pretrained(unfinished)
        load_tokenizer(model).save(unfinished)
        unfinished.rename(folder)
    return folder.absolute()


def load_model(path: Path, model: Model) -> PreTrainedModel:
    """The model in a folder, in training mode, with packed attention and without dropout.

    With ``model.lora`` the adapters are in place and nothing else is trained.

    Raises:
        ModelError: anything about the folder that would make the model differ from what was saved.
    """
    check_folder(path, model)
    loaded = _load(path, model)
    _refuse_broken_weights(path, loaded)
    if model.gradient_checkpointing:
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    if model.lora is not None:
        from llmrl.policy.lora import adapt  # noqa: PLC0415  only recipes with adapters need PEFT

        adapt(loaded, model.lora)
    return loaded.train()


def save_model(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], *, tokenizer_folder: Path, folder: Path
) -> None:
    """Write a Hugging Face folder: config, ``tensors`` as safetensors, and the other files as they were."""
    # A temperature without do_sample is a thing that transformers reads but refuses to write.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder, state_dict=dict(tensors))
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        if (tokenizer_folder / name).exists():
            shutil.copyfile(tokenizer_folder / name, folder / name)


def _build(model: Model, given: Mapping[str, Any], seed: int) -> PreTrainedModel:
    tokenizer, auto = load_tokenizer(model), cast("Any", AutoModelForCausalLM)
    kind = str(given.get("model_type"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"model.config.model_type: no model named {shown(kind)}.{_similar(kind)}")
    known = CONFIG_MAPPING[kind]().to_dict().keys() | CONFIG_MAPPING[kind].attribute_map.keys()
    for key in given:
        if key not in known:
            raise ModelError(f"model.config: {kind} has no key named '{key}'.{did_you_mean(key, known)}")
    rows = given.get("vocab_size", tokenizer.vocabulary)
    if isinstance(rows, int) and rows < tokenizer.vocabulary:
        raise ModelError(
            f"model.config.vocab_size is {rows}, but model.characters makes {tokenizer.vocabulary} tokens; "
            f"leave vocab_size out."
        )
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.stop_ids[0], "pad_token_id": tokenizer.pad_id}
    try:
        config = cast("Any", CONFIG_MAPPING[kind])(**{"vocab_size": tokenizer.vocabulary, **ids, **given})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto.from_config(config, attn_implementation=PACKED, dtype=torch.float32)
    except (RuntimeError, *BAD_CONFIG) as error:
        raise ModelError(f"model.config: transformers cannot build this {kind}: {one_line(error)}") from error


def _similar(kind: str) -> str:
    """The nearest few of several hundred model types."""
    return did_you_mean(kind, [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name[:3] == kind[:3]])


def _load(path: Path, model: Model) -> PreTrainedModel:
    trusted, auto = model.trusts_code, cast("Any", AutoModelForCausalLM)
    config = load_config(path, model)
    _without_dropout(config)
    try:
        loaded, info = auto.from_pretrained(
            path,
            config=config,
            dtype=DTYPES[model.dtype],
            attn_implementation=PACKED,
            trust_remote_code=trusted,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (RuntimeError, SafetensorError, *BAD_CONFIG) as error:
        raise ModelError(f"model.path: {shown(str(path))} cannot be loaded: {one_line(error)}") from error
    _refuse_differences(path, info)
    return loaded


def _without_dropout(config: PreTrainedConfig) -> None:
    """Remove all dropout: a logprob that changes from pass to pass cannot be a ratio's denominator."""
    for key, value in config.to_dict().items():
        if key.endswith(("dropout", "pdrop")) and isinstance(value, float):
            setattr(config, key, 0.0)


def _refuse_differences(path: Path, info: Mapping[str, Any]) -> None:
    """Refuse what transformers would only warn about: tensors that it made up, left out or resized."""
    told = {
        "missing_keys": "lacks {}",
        "unexpected_keys": "has {}, which its config knows nothing of",
        "mismatched_keys": "has {} in another shape than its config says",
    }
    for key, text in told.items():
        if info[key]:
            names = sorted(entry if isinstance(entry, str) else entry[0] for entry in info[key])
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"model.path: {shown(str(path))} {text.format(names[0] + more)}; its config.json and its "
                f"weights do not belong together."
            )


def _refuse_broken_weights(path: Path, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(
                f"model.path: {name} of {shown(str(path))} has values that are not finite; "
                f"the file is damaged or its training diverged."
            )
