"""The names and cuts that a model's folder has for the tensors that transformers holds.

In memory the matrices of all experts are one tensor; in the folder, and where vLLM loads them, each is a
tensor of its own, and some have other names.
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
    """Position of a tensor of the folder in one of the model's."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Strides in elements."""
    start: int

    def of(self, whole: Tensor) -> Tensor:
        """This part of a contiguous tensor, without a copy."""
        return whole.as_strided(self.shape, self.strides, whole.storage_offset() + self.start)


class Layout:
    """The layout of one model, made while its tensors are whole: before ranks share them."""

    def __init__(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
        """Derive the layout of ``tensors``, which have the names from before there were adapters."""
        known: dict[tuple[object, ...], Sequence[Cut]] = {}
        self._cuts = {name: _cuts(model, name, tensor, known) for name, tensor in tensors.items()}

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors in the folder."""
        return frozenset(cut.name for cuts in self._cuts.values() for cut in cuts)

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the model's tensors as its folder has them; writes to them reach the model's."""
        return {cut.name: cut.of(tensors[name]) for name in tensors for cut in self._cuts[name]}

    def sent(self, bucket: Tensors) -> Tensors:
        """The same for a bucket to send; adapters only get the name of what they change."""
        return [
            (cut.name, part, cut.of(tensor.contiguous()) if part == "whole" else tensor)
            for name, part, tensor in bucket
            for cut in self._cuts[name]
        ]


def _cuts(
    model: PreTrainedModel, name: str, tensor: Tensor, known: dict[tuple[object, ...], Sequence[Cut]]
) -> Sequence[Cut]:
    """The cuts of a tensor; each kind of layer is cut once, with numbered elements, as it may be large."""
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
