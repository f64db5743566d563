"""How a model's folder names and cuts the tensors that transformers holds.

In memory the matrices of all experts are one tensor; in the folder, and where vLLM loads them, each is one of
its own, and some have other names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from llmrl.weights.outbox import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a tensor of the folder lies in one of the model's."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    start: int

    def of(self, whole: Tensor) -> Tensor:
        """That part of a contiguous tensor, without a copy."""
        return whole.as_strided(self.shape, self.strides, whole.storage_offset() + self.start)


class Layout:
    """Of one model, made while its tensors have their shapes: before they are shared by ranks."""

    def __init__(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
        """Of ``tensors`` by the names they had before there were adapters."""
        known: dict[tuple[object, ...], Sequence[Cut]] = {}
        self._cuts = {name: _cuts(model, name, tensor, known) for name, tensor in tensors.items()}

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors in the folder."""
        return frozenset(cut.name for cuts in self._cuts.values() for cut in cuts)

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's tensors as its folder has them; what is written there is written into the model's."""
        return {cut.name: cut.of(tensors[name]) for name in tensors for cut in self._cuts[name]}

    def sent(self, bucket: Tensors) -> Tensors:
        """The same for what travels; adapters only get the name of what they change."""
        return [
            (cut.name, part, cut.of(tensor.contiguous()) if part == "whole" else tensor)
            for name, part, tensor in bucket
            for cut in self._cuts[name]
        ]


def _cuts(
    model: PreTrainedModel, name: str, tensor: Tensor, known: dict[tuple[object, ...], Sequence[Cut]]
) -> Sequence[Cut]:
    """Layers are cut alike, and a tensor may be large: each kind is cut once, its elements numbered."""
    shape = tuple(tensor.shape)
    names = [
        (stored, tuple(part.shape))
        for stored, part in _reverted(model, name, tensor.new_empty(shape, device="meta")).items()
    ]
    if [shape] == [its for _, its in names]:
        return [Cut(name=names[0][0], shape=shape, strides=_strides(shape), start=0)]
    prefix = os.path.commonprefix([name, *(stored for stored, _ in names)])
    kind = (shape, *((stored.removeprefix(prefix), its) for stored, its in names))
    if kind not in known:
        numbered = torch.arange(tensor.numel(), dtype=torch.int64).view(shape)
        parts = _reverted(model, name, numbered)
        known[kind] = [_cut(stored.removeprefix(prefix), part) for stored, part in parts.items()]
    return [
        Cut(name=prefix + one.name, shape=one.shape, strides=one.strides, start=one.start)
        for one in known[kind]
    ]


def _cut(name: str, numbers: Tensor) -> Cut:
    start = int(numbers.flatten()[0])
    nexts = [numbers.select(axis, 1) if size > 1 else numbers for axis, size in enumerate(numbers.shape)]
    strides = tuple(int(one.flatten()[0]) - start for one in nexts)
    return Cut(name=name, shape=tuple(numbers.shape), strides=strides, start=start)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _reverted(model: PreTrainedModel, name: str, tensor: Tensor) -> dict[str, Tensor]:
    return cast("Any", revert_weight_conversion)(model, {name: tensor})
