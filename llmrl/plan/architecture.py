"""The sizes of a decoder as its config.json says them, and what follows: parameters, KV cache, FLOPs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llmrl.errors import ModelError, did_you_mean, shown
from llmrl.recipe.heads import HEADS, head_shares
from llmrl.recipe.schema import Lora, Model

SPECIAL_TOKENS = 3
"""Padding, begin and end, which the tokenizer of ``model.characters`` has besides the characters."""

Sizes = Mapping[str, Any]
"""A config under the names that transformers gives its keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a model type fixes without saying so in its config; defaults are those of transformers."""

    defaults: Sizes
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    """Normalizations of each layer besides those of queries and keys."""
    experts: bool = False
    fused: bool = False
    """Whether queries, keys and values come from one matrix, and gate and up from another."""


def _sizes(
    hidden: int, inner: int, layers: int, heads: int, kv: int | None, rows: int, **others: Any
) -> Sizes:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": rows,
    } | others


_MOE: Sizes = {"num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
FAMILIES: Mapping[str, Family] = {
    "llama": Family(defaults=_sizes(4096, 11008, 32, *HEADS["llama"], 32000)),
    "mistral": Family(defaults=_sizes(4096, 14336, 32, *HEADS["mistral"], 32000)),
    "qwen2": Family(defaults=_sizes(4096, 22016, 32, *HEADS["qwen2"], 151936), qkv_bias=True),
    "qwen3": Family(defaults=_sizes(4096, 22016, 32, *HEADS["qwen3"], 151936, head_dim=128), qk_norm=True),
    "phi3": Family(defaults=_sizes(3072, 8192, 32, *HEADS["phi3"], 32064), fused=True),
    "gemma": Family(
        defaults=_sizes(3072, 24576, 28, *HEADS["gemma"], 256000, head_dim=256, tie_word_embeddings=True)
    ),
    "gemma3_text": Family(
        defaults=_sizes(
            2304, 9216, 26, *HEADS["gemma3_text"], 262208, head_dim=256, tie_word_embeddings=True
        ),
        qk_norm=True,
        norms=4,
    ),
    "mixtral": Family(
        defaults=_sizes(
            4096, 14336, 32, *HEADS["mixtral"], 32000, num_local_experts=8, num_experts_per_tok=2
        ),
        experts=True,
    ),
    "qwen3_moe": Family(
        defaults=_sizes(2048, 6144, 24, *HEADS["qwen3_moe"], 151936, **_MOE), qk_norm=True, experts=True
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Decoder of identical layers: attention with grouped heads, then a gated MLP or a choice of experts."""

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    """Width of the MLP, or of one expert."""
    vocabulary: int
    tied: bool
    """Whether embedding and head are one matrix."""
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    experts: int = 1
    experts_per_token: int = 1
    fused: bool = False

    @property
    def attention(self) -> int:
        """Weights of the four projections of one layer."""
        return 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)

    @property
    def expert(self) -> int:
        """Weights of one MLP: gate, up and down."""
        return 3 * self.hidden * self.inner

    @property
    def head(self) -> int:
        """Weights of the last matrix."""
        return self.vocabulary * self.hidden

    @property
    def shares(self) -> tuple[int, ...]:
        """Numbers of devices that can share its attention heads."""
        return head_shares(self.heads, self.kv_heads)

    @property
    def layer(self) -> int:
        """All parameters of one layer."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        small = self.norms * self.hidden + 2 * self.head_size * self.qk_norm
        small += self.head_size * (self.heads + 2 * self.kv_heads) * self.qkv_bias
        return self.attention + self.experts * self.expert + router + small

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; a tied head counts once."""
        return self.layers * self.layer + self.hidden + self.head * (1 if self.tied else 2)

    @property
    def matrices(self) -> int:
        """Weights that one token is multiplied with: of its own experts only, the head once, no embedding."""
        return self.matrices_of(self.experts_per_token)

    def matrices_of(self, experts: float) -> int:
        """Weights in matrix products if ``experts`` of each layer are used."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        return int(self.layers * (self.attention + experts * self.expert + router)) + self.head

    @property
    def tensors(self) -> int:
        """Tensors that an engine loads: those of the model folder, where each matrix of an expert is one."""
        matrices = len(self.projections) + (1 + 3 * self.experts if self.experts > 1 else 0)
        layer = matrices + 3 * self.qkv_bias + 2 * self.qk_norm + self.norms
        return self.layers * layer + (2 if self.tied else 3)

    def kv_bytes(self, width: int) -> int:
        """KV cache of one token, with ``width`` bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_size * width

    def kv_bytes_on(self, devices: int, width: int) -> float:
        """KV cache of one token on each of an engine's devices, between which a head is copied, never cut."""
        return self.kv_bytes(width) * max(1, self.kv_heads / devices) / self.kv_heads

    def forward_flops(self, tokens: float, squares: float) -> float:
        """FLOPs of one pass over sequences of ``tokens`` in all, whose squared lengths sum to ``squares``."""
        attention = 2 * self.layers * self.heads * self.head_size * squares
        return 2 * self.matrices * tokens + attention

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one layer by their names; experts have none."""
        d, q, kv, f = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size, self.inner
        if self.fused:
            mixing = {"qkv_proj": (d, q + 2 * kv)}
            rising = {"gate_up_proj": (d, 2 * f)}
        else:
            mixing = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv)}
            rising = {"gate_proj": (d, f), "up_proj": (d, f)}
        mlp = {} if self.experts > 1 else {**rising, "down_proj": (f, d)}
        return {**mixing, "o_proj": (q, d), **mlp}

    def adapter_parameters(self, lora: Lora) -> int:
        """Weights of low-rank adapters on the named projections, or on all linear layers but the head.

        Raises:
            ModelError: a target is no linear layer of a layer, or is ``all-linear`` where there are experts.
        """
        shapes = self.projections
        every = lora.targets == ("all-linear",)
        if every and self.experts > 1:
            raise ModelError(
                "model.lora.targets: the matrices of experts get no adapters, and 'all-linear' names them "
                f"too; name some of {', '.join(shapes)}."
            )
        named = shapes if every else {target.rpartition(".")[2] for target in lora.targets}
        if unknown := sorted(set(named) - shapes.keys()):
            raise ModelError(
                f"model.lora.targets: no linear layer named {shown(unknown[0])} in a layer of {self.kind}; "
                f"the plan knows {', '.join(shapes)}."
            )
        return self.layers * sum(lora.rank * sum(shapes[name]) for name in named)


def read_architecture(model: Model, *, config: Path | None = None) -> Architecture:
    """The sizes of a recipe's model; nothing is downloaded and no weight is read.

    Args:
        model: the recipe's table.
        config: a config.json, or a folder with one, to be used instead of ``model.path``.

    Raises:
        ModelError: there is no config here, or the plan does not know the kind of model.
    """
    if model.config is not None and config is None:
        rows = SPECIAL_TOKENS + len(model.characters or "")
        return architecture_of({"vocab_size": rows} | model.config, where="model.config")
    file = config or model.folder
    file = file / "config.json" if file.is_dir() else file
    if not file.is_file():
        raise ModelError(_missing(model, config))
    key = "model.path" if config is None else "--config"
    return architecture_of(_read_sizes(file, key=key), where=f"{key}: {shown(str(file), 300)}")


def _missing(model: Model, config: Path | None) -> str:
    if config is not None:
        at = shown(str(config), 300)
        return f"--config: no config.json at {at}; name that file, or the folder that holds it."
    return (
        f"model.path: {shown(model.path)} is no folder here, and the plan downloads nothing; give the "
        f"model's config.json with --config."
    )


def _read_sizes(file: Path, *, key: str) -> Sizes:
    try:
        sizes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{key}: {shown(str(file), 300)} cannot be read as JSON: {error}.") from error
    if not isinstance(sizes, dict):
        raise ModelError(f"{key}: {shown(str(file), 300)} must hold one JSON object.")
    return cast("Sizes", sizes)


def architecture_of(given: Sizes, *, where: str) -> Architecture:
    """A config with transformers' defaults for what it leaves out.

    Raises:
        ModelError: a kind of model whose parameters the plan cannot count, or a size that is no number.
    """
    kind = str(given.get("model_type"))
    if kind not in FAMILIES:
        raise ModelError(
            f"{where}: model_type: the plan cannot count the parameters of {shown(kind)}."
            f"{did_you_mean(kind, FAMILIES)}"
        )
    family = FAMILIES[kind]
    sizes = {**family.defaults, **{key: value for key, value in given.items() if value is not None}}
    if sizes["num_key_value_heads"] is None:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    sizes["num_local_experts"] = given.get("num_experts") or sizes.get("num_local_experts", 1)
    _refuse_wrong({key: sizes[key] for key in _WHOLE if key in sizes}, family, where=where)
    sizes.setdefault("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    return Architecture(
        kind=kind,
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        kv_heads=sizes["num_key_value_heads"],
        head_size=sizes["head_dim"],
        inner=sizes.get("moe_intermediate_size", sizes["intermediate_size"]),
        vocabulary=sizes["vocab_size"],
        tied=bool(sizes.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias or bool(sizes.get("attention_bias", False)),
        qk_norm=family.qk_norm,
        norms=family.norms,
        experts=sizes["num_local_experts"] if family.experts else 1,
        experts_per_token=sizes["num_experts_per_tok"] if family.experts else 1,
        fused=family.fused,
    )


def _refuse_wrong(counts: Sizes, family: Family, *, where: str) -> None:
    unread = () if family.experts else ("num_local_experts", "num_experts_per_tok")
    for key, value in counts.items():
        if key not in unread and (type(value) is not int or value < 1):
            raise ModelError(f"{where}: {key}: expected a positive integer, got {shown(value)}.")


_WHOLE = tuple(_sizes(0, 0, 0, 0, 0, 0, head_dim=0, **_MOE))
