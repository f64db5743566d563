"""Which devices do what: engines, ranks, and the lag between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llmrl.objectives.algorithm import Algorithm
from llmrl.recipe.roles import asked_roles
from llmrl.recipe.schema import Stage

Update = Literal["keep", "drain", "abort"]
"""What becomes of a response when new weights come: ``engines.update``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a stage says about processes, apart from what they compute."""

    engines: int
    """Engines; 0 where nothing is generated, neither to train on nor to evaluate."""
    tensor_parallel: int
    ranks: int
    zero_stage: int
    lag: int
    max_sequences: int
    tokens_per_microbatch: int
    recomputes: bool
    offload: str
    gpu_share: float
    """Share of a GPU's memory that an engine may use."""
    kv_cache_mib: int | None
    update: Update = "keep"
    """What becomes of responses under way when weights come."""
    engine: str = "vllm"
    """The kind of the engines."""
    one_gpu_each: bool = False
    """Whether no engine of this kind can be shared by several GPUs."""
    sequence_parallel: int = 1
    """Ranks that share the tokens of a micro-batch."""
    bucket_mib: int = 256
    role_widths: tuple[tuple[str, int], ...] = ()
    """Role and devices of each model that judges or talks; a plan leaves them as they are."""
    shared: bool = False
    """Engines and ranks on the same devices, in turn."""
    transport: str = "auto"
    """How weights travel; ``broadcast`` is from device to device."""
    may_stay: bool = True
    """Whether the weights may stay on a GPU that one engine and one rank share."""

    @property
    def roles(self) -> int:
        """Devices of all roles."""
        return sum(width for _, width in self.role_widths)

    @property
    def devices(self) -> int:
        """Devices used in total."""
        generating = self.engines * self.tensor_parallel
        return self.roles + (max(generating, self.ranks) if self.shared else generating + self.ranks)

    def widths(self) -> list[int]:
        """Devices that must be on one node together: of an engine, of a role, or one of a rank alone."""
        engines = [self.tensor_parallel] * self.engines
        alone = max(0, self.ranks - sum(engines)) if self.shared else self.ranks
        return [*engines, *(width for _, width in self.role_widths), *[1] * alone]

    @property
    def widest(self) -> str:
        """The key of the recipe that asks for most devices on one node."""
        keys = {f"roles.{name}.tensor_parallel": width for name, width in self.role_widths}
        keys = {"engines.tensor_parallel": self.tensor_parallel if self.engines else 0, **keys}
        return max(keys, key=lambda key: keys[key])

    def state_bytes(self, width: int) -> int:
        """Bytes of optimizer states for each trained parameter that has ``width`` bytes itself.

        Two moments, and its float32 copy, which ZeRO keeps even of what is float32 already.
        """
        return 8 if self.zero_stage == 0 and width == 4 else 12

    def kept(self, *, gpu: bool) -> frozenset[str]:
        """What ``policy.offload`` leaves in a rank's device memory, which without a GPU is the host's.

        Without a GPU, ``cpu`` takes nothing from there, and ``nvme`` takes the optimizer states alone.
        """
        everything = frozenset({"weights", "gradients", "optimizer"})
        if self.offload == "none" or (self.offload == "cpu" and not gpu):
            return everything
        return frozenset() if gpu and self.zero_stage == 3 else everything - {"optimizer"}

    @property
    def broadcast(self) -> bool:
        """Whether weights go from device to device."""
        return self.transport == "broadcast"

    @property
    def processes(self) -> int:
        """Processes that use the host's memory, one for each device that they have or would have."""
        return self.roles + self.engines * self.tensor_parallel + self.ranks

    @property
    def copies(self) -> int:
        """Copies of the weights on rank 0's device: all that wait for a broadcast, or one opened there."""
        alone = self.shared and self.engines == self.tensor_parallel == self.ranks == 1
        return self.lag + 1 if self.broadcast else int(alone and self.may_stay)

    @property
    def tokens_per_pass(self) -> int:
        """Most tokens that one rank holds in a forward pass."""
        return -(-self.tokens_per_microbatch // self.sequence_parallel)

    @property
    def keys(self) -> Mapping[str, int | str | bool]:
        """The recipe's keys that describe it, without those that a plan never changes."""
        return {
            "cluster.placement": "shared" if self.shared else "split",
            "engines.count": self.engines,
            "engines.tensor_parallel": self.tensor_parallel,
            "engines.max_lag": self.lag,
            "policy.ranks": self.ranks,
            "policy.zero_stage": self.zero_stage,
            "weights.transport": self.transport,
        }


def placement_of(stage: Stage) -> Placement:
    """What a recipe's stage says; its plugins must have been imported."""
    engines, policy, algorithm = stage.engines, stage.policy, Algorithm.of(stage)
    generates = algorithm.online or bool(stage.evaluation.sources)
    opposed = algorithm.bundle.opponent.kind != "none"
    asked = asked_roles(stage).items()
    return Placement(
        engines=engines.count if generates else 0,
        tensor_parallel=engines.tensor_parallel,
        ranks=policy.ranks,
        zero_stage=policy.zero_stage,
        lag=engines.max_lag,
        max_sequences=engines.max_sequences,
        tokens_per_microbatch=policy.tokens_per_microbatch,
        sequence_parallel=policy.sequence_parallel,
        recomputes=stage.model.gradient_checkpointing,
        offload=policy.offload,
        gpu_share=engines.gpu_memory_utilization,
        kv_cache_mib=engines.kv_cache_mib,
        update=engines.update,
        engine=engines.kind,
        one_gpu_each=engines.kind == "torch" or opposed,
        bucket_mib=stage.weights.bucket_mib,
        shared=stage.cluster.placement == "shared",
        transport=stage.weights.transport,
        may_stay=stage.weights.may_stay,
        role_widths=tuple((name, role.tensor_parallel) for name, role in asked for _ in range(role.count)),
    )
