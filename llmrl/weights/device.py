"""Weights that stay on one GPU: each bucket is packed there, and the engine's process opens that memory.

Written after torch 2.13 (``torch.multiprocessing.reductions``); no pickle travels, only the numbers and names
of CUDA's handles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from llmrl.errors import WeightSyncError
from llmrl.footprint import CUDA_RESIDUE
from llmrl.weights.bundle import Handle, OnDevice, WeightBundle
from llmrl.weights.packed import Packed
from llmrl.weights.parcel import Parcel
from llmrl.weights.proof import Stored
from llmrl.weights.store import Written

TORCH = cast("Any", reductions)
"""Torch's module, which has no types."""

STORAGE, EVENT = slice(7, 10), slice(11, 15)
"""Places in torch's tuple of what opens a storage, and of what tells its owner that it is free again."""


def share_beside(stored: Stored, *, dtype: str, most: float, memory: int | None = None) -> float:
    """The share of the GPU that an engine may take beside a copy of the weights.

    Args:
        stored: the tensors.
        dtype: the copy's dtype.
        most: the recipe's limit.
        memory: bytes of the GPU; by default those of the first GPU here.
    """
    copy = sum(map(prod, stored.values())) * getattr(torch, dtype).itemsize
    whole: int = memory or cast("Any", torch.cuda).get_device_properties(0).total_memory
    # A context for the rank that is away, beside its copy, and one for vLLM, beside its share.
    return min(most, 1 - (copy + 2 * CUDA_RESIDUE) / whole)


class DeviceStore:
    """A store for an engine on the policy's own GPU."""

    def __init__(self, device: torch.device) -> None:
        self._packed = Packed(device)

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """Copy the version on the device; returns the handles that open it."""
        specs = self._packed.write(version, buckets)
        handles = tuple(exported(block) for block in self._packed.blocks(version))
        return Written(specs=specs, way=OnDevice(handles=handles))

    def seal(self, bundle: WeightBundle) -> None:
        """No-op: the engine gets the bundle itself."""

    def release(self, version: int) -> None:
        """Free the copy, as the engine has its own."""
        self._packed.release(version)


def exported(block: Tensor) -> Handle:
    """A handle with which another process opens a block of bytes; the block must live until then."""
    listed = TORCH.reduce_tensor(block)[1]
    return Handle(device=_name(block.device), size=block.nbytes, storage=listed[STORAGE], event=listed[EVENT])


def opened(handle: Handle, device: torch.device) -> Tensor:
    """The block behind a handle, over the same memory.

    Raises:
        WeightSyncError: the block is on another device.
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
    """A name equal in all processes for the same GPU, however each of them counts."""
    return str(cast("Any", torch.cuda).get_device_properties(device).uuid)
