"""Inside vLLM's worker: a transfer backend that maps complete weights of this machine.

Whoever wrote them, neither a GPU nor a process group is needed; vLLM's own update session does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader import reload

from llmrl.weights.backend import BACKEND, heard
from llmrl.weights.bundle import arrays
from llmrl.weights.parcel import tensor_of


@dataclass
class MappedInit(WeightTransferInitInfo):
    """Nothing has to be agreed on beforehand."""


@dataclass
class MappedUpdate(WeightTransferUpdateInfo):
    """Where the bytes are, and which tensors they hold."""

    place: str = ""
    specs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class MappedTransfer(WeightTransferEngine[MappedInit, MappedUpdate]):
    """Loads every tensor through vLLM's layerwise reload."""

    init_info_cls = MappedInit
    update_info_cls = MappedUpdate

    def init_transfer_engine(self, init_info: MappedInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Get every layer ready to be loaded anew."""
        reload.initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: MappedUpdate) -> None:
        """Load the tensors."""
        self.model.load_weights(_tensors(Path(update_info.place), update_info.specs))  # pyright: ignore[reportCallIssue]

    def finish_weight_update(self) -> None:
        """Repack what the kernels need in another layout."""
        reload.finalize_layerwise_reload(self.model, self.model_config)  # pyright: ignore[reportUnknownMemberType]
        _repack_tied_head(self.model)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _tensors(place: Path, specs: list[dict[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    for spec, data in arrays(place, heard(specs)):
        yield spec.name, tensor_of(spec, data)


def _repack_tied_head(model: torch.nn.Module) -> None:
    """On CPU vLLM keeps a packed copy of each linear weight, and a reload leaves a tied head's copy stale."""
    head = getattr(model, "lm_head", None)
    if head is None or not hasattr(head, "cpu_linear") or head.weight.numel() == 0:
        return
    from vllm.model_executor.layers import utils  # noqa: PLC0415  what follows is in CPU builds only

    utils.dispatch_cpu_unquantized_gemm(head, remove_weight=False)


class WorkerExtension:
    """Named in ``worker_extension_cls``: importing it registers the backend in the worker's process."""


WeightTransferEngineFactory.register_engine(BACKEND, MappedTransfer)
