"""Engine side of a weight sync: a transfer backend for vLLM that reads one block of shared memory.

Runs inside vLLM's worker process. The block was written by the process that owns the engine, so
neither a GPU nor a process group is needed; vLLM's own update session does the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader import reload

from llmrl.weights.shared_file import BACKEND


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Nothing has to be agreed on beforehand."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """Where the bytes are, and which tensors they hold."""

    path: str = ""
    specs: list[list[Any]] = field(default_factory=list[list[Any]])
    """[name, shape, dtype, start, stop] of each tensor, offsets in bytes."""


class SharedMemoryTransfer(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads every tensor of the block through vLLM's layerwise reload."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Get every layer ready to be loaded anew."""
        reload.initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Load the block's tensors."""
        self.model.load_weights(_tensors(Path(update_info.path), update_info.specs))  # pyright: ignore[reportCallIssue]

    def finish_weight_update(self) -> None:
        """Repack what the kernels need in another layout."""
        reload.finalize_layerwise_reload(self.model, self.model_config)  # pyright: ignore[reportUnknownMemberType]
        _repack_tied_head(self.model)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _tensors(path: Path, specs: list[list[Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    with path.open("rb") as file:
        block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for name, shape, dtype, start, stop in specs:
        flat = torch.frombuffer(block, dtype=torch.uint8, count=stop - start, offset=start)
        yield name, flat.view(getattr(torch, dtype)).reshape(shape)


def _repack_tied_head(model: torch.nn.Module) -> None:
    """On CPU vLLM keeps a packed copy of each linear weight, and a reload leaves a tied head's copy stale."""
    head = getattr(model, "lm_head", None)
    if head is None or not hasattr(head, "cpu_linear") or head.weight.numel() == 0:
        return
    from vllm.model_executor.layers import utils  # noqa: PLC0415  what follows is in CPU builds only

    utils.dispatch_cpu_unquantized_gemm(head, remove_weight=False)


class WorkerExtension:
    """Named in ``worker_extension_cls``: importing it registers the backend in the worker's process."""


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryTransfer)
