"""A model's tensors by their names on disk: tied ones once, adapters merged into copies or on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from llmrl.weights.bundle import Part

if TYPE_CHECKING:
    from llmrl.policy.lora import Adapter

ADAPTER = ".lora_"
"""Mark in the names that PEFT gives to the tensors of adapters."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A tensor that can be made once all of its sources are complete."""

    name: str
    """Name in the Hugging Face state dict."""
    sources: tuple[Tensor, ...]
    """Parameters and buffers, which may be sharded now."""
    make: Callable[[], Tensor]
    part: Part = "whole"


def pieces(model: nn.Module) -> list[Piece]:
    """Every tensor that belongs on disk, with adapters merged."""
    merged = _merged(model)
    return [
        merged.get(name) or Piece(name=name, sources=(tensor,), make=tensor.detach)
        for tensor, (name, *_) in _names(model)
    ]


def adapter_pieces(model: nn.Module) -> list[Piece]:
    """The factors of every adapter, under the name of the tensor that they change."""
    from llmrl.policy.lora import adapters  # noqa: PLC0415  only recipes with adapters need PEFT

    return [piece for one in adapters(model) for piece in _factors(one)]


def named(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor but the adapters', by its first name from before there were adapters."""
    return {name: tensor for tensor, (name, *_) in _names(model)}


def _names(model: nn.Module) -> list[tuple[Tensor, list[str]]]:
    """Every tensor but the adapters', with all its names from before there were adapters."""
    names: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in cast("dict[str, Tensor]", model.state_dict(keep_vars=True)).items():
        if ADAPTER not in name:
            names.setdefault(id(tensor), (tensor, []))[1].append(name.replace(".base_layer.", "."))
    return list(names.values())


def _factors(one: Adapter) -> Iterator[Piece]:
    yield Piece(name=one.name, part="down", sources=(one.down,), make=one.down.detach)
    yield Piece(name=one.name, part="up", sources=(one.up,), make=one.up.detach)
    yield Piece(name=one.name, part="scale", sources=(), make=lambda: one.scale)


def _merged(model: nn.Module) -> dict[str, Piece]:
    if not any(ADAPTER in name for name in model.state_dict()):
        return {}
    from llmrl.policy.lora import adapters  # noqa: PLC0415  only recipes with adapters need PEFT

    return {
        one.name: Piece(name=one.name, sources=(one.base, one.down, one.up), make=one.merged)
        for one in adapters(model)
    }
