"""A place for a rank's tensors while an engine has their device: they stay, only their memory goes.

Not DeepSpeed's ``offload_states``: with ZeRO 3 it refuses every optimizer but its own CUDA kernel, it refuses
``policy.offload``, and it knows neither ZeRO 0 nor a frozen reference. To give up the storage under a tensor
keeps every view of it valid, so it does not matter how the stages have cut up theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

SLICE = 1 << 28
"""Bytes pinned at once: torch rounds pinned sizes up to a power of two."""


class Attic:
    """Holds bytes on the host between ``put`` and ``fetch``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._away: list[tuple[Tensor, list[Tensor]]] = []
        """Blocks without memory, with slices of their bytes on the host; scratch has no slices."""

    def put(self, tensors: Iterable[Tensor], scratch: Iterable[Tensor] = ()) -> int:
        """Free the device memory under these tensors; returns the number of bytes.

        Neither they nor views of them may be read or written until ``fetch``.

        Args:
            tensors: blocks whose bytes are restored.
            scratch: blocks that come back with arbitrary bytes.
        """
        assert not self._away, "fetch() comes first: promised by run.devices"
        self._settle()
        self._away = [(block, self._copied(block)) for block in self._blocks(tensors)]
        self._away += [(block, []) for block in self._blocks(scratch)]
        self._settle()
        for block, _ in self._away:
            block.untyped_storage().resize_(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return sum(block.numel() for block, _ in self._away)

    def fetch(self) -> None:
        """Give every tensor its memory again, and all but scratch their bytes."""
        for block, slices in self._away:
            block.untyped_storage().resize_(block.numel())
            for part, kept in zip(_slices(block), slices, strict=False):
                part.copy_(kept, non_blocking=True)
        self._settle()
        self._away = []

    def _blocks(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """[bytes] of each storage once. Storage elsewhere, of a file or of numpy is left alone."""
        seen = set[int]()
        for tensor in tensors:
            if tensor.device != self._device or not (storage := tensor.untyped_storage()).resizable():
                continue
            if storage.nbytes() and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                yield torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)

    def _copied(self, block: Tensor) -> list[Tensor]:
        slices = _slices(block)
        pinned = self._device.type == "cuda"
        kept = [torch.empty(part.numel(), dtype=torch.uint8, pin_memory=pinned) for part in slices]
        for part, copy in zip(slices, kept, strict=True):
            copy.copy_(part, non_blocking=True)
        return kept

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _slices(block: Tensor) -> list[Tensor]:
    return list(torch.split(block, SLICE))
