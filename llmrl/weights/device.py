"""Weights that stay on one GPU: each bucket is packed there, and the engine's process opens the very memory.

Written after torch 2.13 (``torch.multiprocessing.reductions``); no pickle travels, only the numbers and names
of CUDA's handles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from llmrl.errors import WeightSyncError
from llmrl.footprint import CUDA_RESIDUE
from llmrl.weights.bundle import Handle, WeightBundle
from llmrl.weights.packed import PackedStore
from llmrl.weights.parcel import Parcel
from llmrl.weights.proof import Stored
from llmrl.weights.store import Written

TORCH = cast("Any", reductions)
"""It has no types."""

STORAGE, EVENT = slice(7, 10), slice(11, 15)
"""Where torch lists what opens a storage, and what tells its owner that it is not needed any more."""


def share_beside(stored: Stored, *, dtype: str, most: float, memory: int | None = None) -> float:
    """The share of the GPU that an engine may take beside a copy of the weights.

    Args:
        stored: the tensors.
        dtype: of the copy.
        most: what the recipe allows.
        memory: bytes of the GPU; by default those of the first one here.
    """
    copy = sum(map(prod, stored.values())) * getattr(torch, dtype).itemsize
    whole: int = memory or cast("Any", torch.cuda).get_device_properties(0).total_memory
    # A context for the rank that is away, beside its copy, and one for vLLM, beside its share.
    return min(most, 1 - (copy + 2 * CUDA_RESIDUE) / whole)


class DeviceStore:
    """For an engine on the policy's own GPU."""

    def __init__(self, device: torch.device) -> None:
        self._packed = PackedStore(device)

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """A copy on the device, and what opens it."""
        written = self._packed.write(version, buckets)
        handles = tuple(exported(block) for block in self._packed.blocks(version))
        return replace(written, way="device", handles=handles)

    def seal(self, bundle: WeightBundle) -> None:
        """The bundle itself is what the engine gets."""

    def release(self, version: int) -> None:
        """The engine has copied it."""
        self._packed.release(version)


def exported(block: Tensor) -> Handle:
    """What another process needs to open a block of bytes; the block has to live until it has."""
    listed = TORCH.reduce_tensor(block)[1]
    return Handle(device=_name(block.device), size=block.nbytes, storage=listed[STORAGE], event=listed[EVENT])


def opened(handle: Handle, device: torch.device) -> Tensor:
    """The block, over the same memory.

    Raises:
        WeightSyncError: it is on another device.
    """
    if (here := _name(device)) != handle.device:
        raise WeightSyncError(
            f"weights were left on GPU {handle.device}, but the engine computes on {here}; "
            "set weights.transport = 'memory'."
        )
    index = torch.cuda.current_device() if device == torch.device("cuda") else device.index
    whole = (torch.Tensor, (handle.size,), (1,), 0, torch.storage.TypedStorage, torch.uint8, index)
    return TORCH.rebuild_cuda_tensor(*whole, *handle.storage, False, *handle.event)


def _name(device: torch.device) -> str:
    """Equal in all processes for the same GPU, however each of them counts."""
    return str(cast("Any", torch.cuda).get_device_properties(device).uuid)
