"""Weights that wait on the policy's own device: every bucket of a version is one tensor of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llmrl.weights.bundle import TensorSpec, aligned
from llmrl.weights.parcel import Parcel


class Packed:
    """A second copy of the weights beside the policy's, so that it can train while they wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._used: dict[int, list[Tensor]] = {}
        self._free: list[Tensor] = []

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> tuple[TensorSpec, ...]:
        """Pack each bucket, over a free one of its size if there is one; returns where each array is."""
        blocks: list[Tensor] = []
        self._used[version] = blocks
        specs: list[TensorSpec] = []
        for bucket in buckets:
            if bucket:
                placed = list(_placed(bucket, file=str(len(blocks))))
                block = self._block(placed[-1].stop)
                for parcel, spec in zip(bucket, placed, strict=True):
                    block[spec.start : spec.stop].copy_(parcel.data)
                blocks.append(block)
                specs += placed
        if self._device.type == "cuda":  # the copies are made, whatever the policy does next
            torch.cuda.current_stream(self._device).synchronize()
        return tuple(specs)

    def blocks(self, version: int) -> Sequence[Tensor]:
        """The buckets in the order in which they were written."""
        return self._used[version]

    def release(self, version: int) -> None:
        """Reuse the version's buckets for the next one."""
        self._free = self._used.pop(version)

    def _block(self, size: int) -> Tensor:
        for index, block in enumerate(self._free):
            if block.nbytes == size:
                return self._free.pop(index)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # a block cut from a larger free segment would keep that from engines
        return torch.empty(size, dtype=torch.uint8, device=self._device)


def _placed(bucket: Sequence[Parcel], *, file: str) -> Iterable[TensorSpec]:
    end = 0
    for parcel in bucket:
        spec = parcel.at(aligned(end), file=file)
        end = spec.stop
        yield spec
