"""DeepSpeed behind a small surface: ZeRO 0-3 over any number of ranks. The only file that trains with it."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d

from llmrl.footprint import GRADIENT_BUCKET
from llmrl.policy.scorer import TokenScorer
from llmrl.recipe.schema import Optimizer, Stage


class Meeting:
    """A listening socket for the ranks to meet at: bound to one address, on a port that the system chose."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def detach(self) -> int:
        """Hand the file descriptor over to the server of the meeting."""
        return self._socket.detach()


def join_group(
    address: str, *, rank: int, ranks: int, device: str, meeting: Meeting | None, timeout_s: float
) -> None:
    """Make this process one rank of the default process group; returns when all have come.

    Args:
        address: host:port of rank 0's meeting.
        rank: this process's rank.
        ranks: number of ranks.
        device: ``cpu`` talks gloo, ``cuda`` NCCL.
        meeting: rank 0's own socket; None elsewhere.
        timeout_s: how long one rank may wait for another, which may be writing a large checkpoint.
    """
    host, port = address.rsplit(":", 1)
    timeout = timedelta(seconds=timeout_s)
    # DeepSpeed and Ulysses make groups of their own, whose timeouts only torch's default can set.
    c10d.default_pg_timeout = timeout
    c10d.default_pg_nccl_timeout = timeout  # pyright: ignore[reportPrivateImportUsage]
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]  torch documents it under this name
        host,
        int(port),
        ranks,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=meeting.detach() if meeting else None,
    )
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    # DeepSpeed would compile a C++ extension here (a minute, or for ever behind a stale lock) that
    # only its inference path uses.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    deepspeed.init_distributed(backend, rank=rank, world_size=ranks, verbose=False)


class ClientAdamW(torch.optim.AdamW):
    """AdamW that can skip an update, and that clips where DeepSpeed would not report the norm."""

    skip = True
    """Whether no update is made, as for a loss that is not finite. True until the first step: when built,
    DeepSpeed at stage 0 in bfloat16 makes one without a gradient, from which Adam would count on."""
    max_grad_norm: float | None = None
    """Norm to clip to where DeepSpeed hands over whole gradients (stage 0 in float32) and reports no norm."""
    grad_norm = 0.0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one update, or none."""
        if self.max_grad_norm is not None:
            parameters = [p for group in self.param_groups for p in group["params"]]
            self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        skip = self.skip or not math.isfinite(self.grad_norm)
        return None if skip else cast("float | None", super().step(closure))


class Zero:
    """One rank of the sharded optimizer around the policy."""

    def __init__(self, scorer: TokenScorer, stage: Stage, *, device: str) -> None:
        self._level = stage.policy.zero_stage
        self._clips_itself = self._level == 0 and stage.model.dtype == "float32"
        self._device = (
            torch.device("cpu") if device == "cpu" else torch.device("cuda", torch.cuda.current_device())
        )
        self._optimizer = ClientAdamW(
            _decayed(scorer, stage.optimizer),
            lr=0.0,
            betas=stage.optimizer.betas,
            eps=stage.optimizer.eps,
            fused=True,
        )
        self._optimizer.max_grad_norm = stage.optimizer.max_grad_norm if self._clips_itself else None
        config = _config(scorer, stage, bucket=GRADIENT_BUCKET[device], clips_itself=self._clips_itself)
        if self._level == 3:
            # One parameter at a time is whole on the device; what is left to move is empty, buffers apart.
            deepspeed.zero.Init(module=scorer, config_dict_or_path=config)
        if device == "cuda":
            # DeepSpeed reads the devices' numbers, and fails where they are named by UUID.
            cast("Any", get_accelerator()).available_memory = _free_memory
        self._engine: Any = deepspeed.initialize(
            model=scorer.to(self._device),
            optimizer=self._optimizer,
            config=config,
            dist_init_required=False,
        )[0]

    @property
    def ranks(self) -> int:
        """Number of ranks that share the work."""
        return dist.get_world_size()

    @property
    def device(self) -> torch.device:
        """The device that inputs belong on."""
        return self._device

    def __call__(self, *inputs: object, **options: object) -> Any:
        """Run the policy's forward pass."""
        return self._engine(*inputs, **options)

    def train(self, mode: bool) -> None:
        """Switch between training and scoring."""
        self._engine.train(mode)

    def backward(self, share: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's share of the loss."""
        # DeepSpeed averages over ranks; shares already have the whole step's denominators, so undo it here.
        self._engine.backward(share * self.ranks, scale_wrt_gas=False)

    def step(self, *, lr: float, skip: bool) -> float:
        """Reduce, clip and update; returns the global gradient norm before clipping.

        If that is not finite, no update is made: DeepSpeed sees to it, or ``ClientAdamW`` does.
        """
        self._optimizer.skip = skip
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._optimizer.grad_norm if self._clips_itself else self._engine.get_global_grad_norm()
        if self._level == 2 and not math.isfinite(norm):
            # With offload DeepSpeed would add the next step's gradients to those that it has just refused.
            kept = self._engine.optimizer.averaged_gradients
            kept.update(dict.fromkeys(kept))
        return float(norm)

    def all_agree(self, holds: bool) -> bool:
        """Whether it holds on every rank; the same answer everywhere."""
        return not self.total(torch.tensor(float(not holds))).item()

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, on every rank."""
        values = values.to(self._device)
        dist.all_reduce(values)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over ranks, on every rank."""
        values = values.to(self._device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    @property
    def module(self) -> TokenScorer:
        """The policy; with ZeRO 3 its parameters are empty outside of ``whole`` and the forward pass."""
        return self._engine.module

    def held(self) -> Iterator[Tensor]:
        """Every tensor that training keeps from step to step: weights, gradients and states."""
        parameters = list(self.module.parameters())
        yield from parameters
        yield from self.module.buffers()
        yield from (p.grad for p in parameters if p.grad is not None)
        if self._level == 3:
            yield from (cast("Any", p).ds_tensor for p in parameters)
        for kept in (self._engine.optimizer, self._optimizer):
            yield from _tensors_in(vars(kept))

    def scratch(self) -> list[Tensor]:
        """Tensors that only matter within a step: the buckets in which ZeRO 3 reduces gradients."""
        buckets = self._engine.optimizer.ipg_buckets.values() if self._level == 3 else ()
        return [bucket.buffer for bucket in buckets if bucket.buffer is not None]

    def full_size(self, tensor: Tensor) -> int:
        """Bytes of the whole parameter or buffer, wherever its shards are."""
        sharded = self._level == 3 and isinstance(tensor, nn.Parameter)
        elements = cast("Any", tensor).ds_numel if sharded else tensor.numel()
        return elements * tensor.element_size()

    @contextmanager
    def whole(self, tensors: Iterable[Tensor]) -> Generator[None]:
        """Complete these parameters on every rank within the block; all enter and leave together."""
        sharded = [t for t in tensors if isinstance(t, nn.Parameter)] if self._level == 3 else []
        with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
            yield

    def save(self, folder: Path) -> None:
        """Write this rank's shards; all ranks call it."""
        self._engine.save_checkpoint(str(folder), tag="zero", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read this rank's shards; all ranks call it."""
        self._engine.load_checkpoint(str(folder), tag="zero")


def _decayed(module: nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optimizer.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors in a value, however DeepSpeed's stages nest them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for pair in cast("dict[object, object]", value).items():
            yield from _tensors_in(pair)
    elif isinstance(value, list | tuple):
        for one in cast("Sequence[object]", value):
            yield from _tensors_in(one)


def _free_memory(*_: Any) -> int:
    """Free bytes of this process's GPU."""
    return torch.cuda.mem_get_info()[0]


def _config(scorer: TokenScorer, stage: Stage, *, bucket: int, clips_itself: bool) -> dict[str, Any]:
    policy = stage.policy
    trained = sum(p.numel() for p in scorer.parameters() if p.requires_grad)
    offload: dict[str, Any] = {"device": policy.offload}
    if policy.nvme_folder is not None:
        offload["nvme_path"] = str(policy.nvme_folder)
    zero: dict[str, Any] = {"stage": policy.zero_stage, "reduce_bucket_size": min(trained, bucket)}
    if policy.zero_stage == 3 and stage.model.lora is None:
        # Layers are fetched and reduced as wholes, with hooks of their own instead of each matrix's. Not
        # where inputs need no gradient, as after frozen embeddings: such hooks run before the gradients.
        layers = cast("Any", scorer.model)._no_split_modules or ()
        zero["leaf_module"] = {"classes": sorted(layers)}
    if policy.offload != "none":
        zero["offload_optimizer"] = offload
    if policy.offload != "none" and policy.zero_stage == 3:
        # On a disk DeepSpeed has five buffers of a fixed size, which no real layer fits.
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The number of micro-batches differs from step to step: step() is the boundary.
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if clips_itself else stage.optimizer.max_grad_norm,
        "zero_optimization": {**zero, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": stage.model.dtype == "bfloat16"},
        # Stage 0 knows no other sums than the model's, and stage 1 would keep all of them on every rank.
        "data_types": {"grad_accum_dtype": "fp32" if policy.zero_stage >= 2 else None},
        "steps_per_print": None,
    }
