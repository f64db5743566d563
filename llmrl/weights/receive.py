"""Inside vLLM's worker: a transfer backend for weights that are mapped or broadcast.

vLLM's own update session does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader import reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform
from vllm.utils.nccl import unpinned_nccl_env

from llmrl.weights.backend import BACKEND, heard
from llmrl.weights.group import Seat
from llmrl.weights.receiver import Receiver

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker


@dataclass
class Init(WeightTransferInitInfo):
    """The settings agreed on before the first update."""

    seat: dict[str, Any] | None = None
    """Seat of the engine's first worker in the group of a broadcast; None where nothing is broadcast."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """A bundle as ``backend.told`` encodes it."""

    version: int = 0
    base: int | None = None
    kept: bool = False
    way: list[Any] = field(default_factory=list[Any])
    specs: list[list[Any]] = field(default_factory=list[list[Any]])
    left_out: list[str] = field(default_factory=list[str])


class Transfer(WeightTransferEngine[Init, Update]):
    """Loads every tensor through vLLM's layerwise reload."""

    init_info_cls = Init
    update_info_cls = Update

    def init_transfer_engine(self, init_info: Init) -> None:
        """Take this worker's place in the group, if there is one."""
        dtype = str(self.model_config.dtype).removeprefix("torch.")
        self._receiver = Receiver(Path(self.model_config.model), dtype=dtype, device=self.device)
        if init_info.seat is not None:
            first = Seat(**init_info.seat)
            # vLLM may have chosen for itself how NCCL talks; rank 0 has not, and both must do the same.
            with unpinned_nccl_env():
                self._receiver.join(replace(first, rank=first.rank + self.parallel_config.rank))

    def start_weight_update(self) -> None:
        """Prepare every layer to be loaded anew, whatever an interrupted update has left there."""
        reload.initialize_layerwise_reload(self.model)
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
            _pack_experts_again(layer)

    def receive_weights(self, update_info: Update) -> None:
        """Load the tensors as they come."""
        tensors = self._receiver.tensors(heard(**vars(update_info)))
        self.model.load_weights(tensors)  # pyright: ignore[reportCallIssue]

    def finish_weight_update(self) -> None:
        """Repack what the kernels need in another layout."""
        tied = [layer for layer in self.model.modules() if _packed_and_not_loaded(layer)]
        reload.finalize_layerwise_reload(self.model, self.model_config)  # pyright: ignore[reportUnknownMemberType]
        for layer in tied:
            _repack(layer)

    def shutdown(self) -> None:
        """No-op: what is held between updates ends with the process."""


def _pack_experts_again(layer: torch.nn.Module) -> None:
    """Have expert kernels rebuilt: on CPU vLLM packs the experts' matrices only when it builds them."""
    method = getattr(layer, "quant_method", None)
    if getattr(method, "moe_kernel", None) is not None and current_platform.is_cpu():
        cast("Any", method).moe_kernel = None


def _packed_and_not_loaded(layer: torch.nn.Module) -> bool:
    """Whether a layer with a packed copy has weights that came in as another layer's, like a tied head."""
    info = get_layerwise_info(layer)
    return "cpu_linear" in vars(layer) and info.can_load() and not info.load_numel


def _repack(layer: torch.nn.Module) -> None:
    """Renew the copy that vLLM packs of a linear weight on CPU; a reload leaves that of a tied one stale."""
    if not cast("Any", layer).weight.numel():
        return  # the copy is all there is: nothing is tied to it
    from vllm.model_executor.layers import utils  # noqa: PLC0415  what follows is in CPU builds only

    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


class WorkerExtension:
    """A base of vLLM's worker, named in ``worker_extension_cls``; importing it registers the backend."""

    def take_weights(self, update: dict[str, Any]) -> None:
        """Run vLLM's whole update session in one call: each is a round trip in which nothing is generated."""
        worker = cast("Worker", self)
        worker.start_weight_update()
        worker.update_weights(update)
        worker.finish_weight_update()


WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
