"""Engine side of a sync: complete tensors, in a process that computes with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from llmrl.weights.bundle import Broadcast, Handle, Mapped, OnDevice, TensorSpec, WeightBundle
from llmrl.weights.device import opened
from llmrl.weights.group import Group, Seat
from llmrl.weights.inbox import Inbox
from llmrl.weights.memory import Windows
from llmrl.weights.parcel import tensor_of

Named = tuple[str, Tensor]
"""A tensor of the model after its name in the Hugging Face state dict."""


class Receiver:
    """Reads weights at a place of this machine or on this GPU, or takes part in a broadcast."""

    def __init__(self, folder: Path, *, dtype: str, device: torch.device) -> None:
        """A receiver for an engine that loaded ``folder`` and computes in ``dtype`` on ``device``."""
        self._inbox = Inbox(folder, dtype=dtype)
        self._windows = Windows()
        self._device = device
        self._group: Group | None = None

    def join(self, seat: Seat) -> None:
        """Join the group; returns when all members have come."""
        self._group = Group(seat, device=self._device)

    def tensors(self, bundle: WeightBundle) -> Iterator[Named]:
        """Every tensor of the model by its name; reading on receives a broadcast bucket by bucket.

        Raises:
            DisconnectedError: a broadcast broke off.
            WeightSyncError: a broadcast has changes of a version that is not held here.
        """
        match bundle.way:
            case Mapped() as way:
                return self._mapped(way, bundle.specs)
            case OnDevice(handles=handles):
                return self._opened(handles, bundle.specs)
            case Broadcast():
                return self._broadcast(bundle)

    def _mapped(self, way: Mapped, specs: Iterable[TensorSpec]) -> Iterator[Named]:
        # A folder has other files for every version.
        blocks = {} if way.place.is_dir() else {"": self._windows.on(way.place)}
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            # Torch warns of tensors that cannot be written to; weights that are loaded are only read.
            listed = [(spec.name, tensor_of(spec, data)) for spec, data in way.arrays(specs, blocks)]
        return iter(listed)

    def _opened(self, handles: Sequence[Handle], specs: Iterable[TensorSpec]) -> Iterator[Named]:
        blocks = [opened(handle, self._device) for handle in handles]
        for spec in specs:
            yield spec.name, tensor_of(spec, blocks[int(spec.file)][spec.start : spec.stop])

    def _broadcast(self, bundle: WeightBundle) -> Iterator[Named]:
        coming = self._coming(bundle.specs)
        if bundle.base is None and not bundle.kept:
            return ((spec.name, tensor_of(spec, data)) for spec, data in coming)
        contents = ((spec, data.cpu().numpy()) for spec, data in coming)
        return self.tensors(self._inbox.complete(bundle, contents))

    def _coming(self, specs: Iterable[TensorSpec]) -> Iterator[tuple[TensorSpec, Tensor]]:
        assert self._group is not None, "join() comes first"
        self._group.meet()
        for _, members in groupby(specs, key=lambda spec: spec.file):
            bucket = list(members)
            # Each into memory of its own: vLLM keeps tensors until their layer is complete.
            block = torch.empty(bucket[-1].stop, dtype=torch.uint8, device=self._device)
            self._group.broadcast(block)
            yield from ((spec, block[spec.start : spec.stop]) for spec in bucket)
