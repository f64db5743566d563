"""The kinds of roles that a recipe can name. Their dependencies are imported only where one is started."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.recipe.schema import Fraction, Positive, Stage
from llmrl.roles.role import Role, role


@role("generate")
@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """A model that speaks, on one of the engines: a judge that writes its verdict, or a simulated user."""

    engine: str = "vllm"
    """Kind of engine, as ``engines.kind``."""
    max_sequences: Positive = 64
    """Most answers that it generates at once."""
    kv_cache_mib: Positive | None = None
    """KV cache in MiB, as ``engines.kv_cache_mib``."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU that vLLM may use, as ``engines.gpu_memory_utilization``."""

    async def start(self, stage: Stage, name: str, *, device: str) -> Role:
        """Load the model and serve it."""
        from llmrl.roles.speaker import started  # noqa: PLC0415  an engine is loaded where it is used

        return await started(self, stage, name, device=device)


@role("classify")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """A sequence classifier: one score for a prompt with its response."""

    label: str | None = None
    """The score is the probability of this label; by default the one output of a model that has one."""
    max_sequences: Positive = 16
    """Most texts that it reads at once."""

    async def start(self, stage: Stage, name: str, *, device: str) -> Role:
        """Load the model and serve it."""
        from llmrl.roles.reader import WholeReader  # noqa: PLC0415  torch is loaded where it is used

        return WholeReader(self, stage, name, device=device)


@role("steps")
@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A token classifier: one score for each step of a response, read where the step ends."""

    split: str = "\n\n"
    """Text between the steps of a response."""
    separator: str = "\n"
    """Text that the model was trained to read after each step; the step's score is at its last token."""
    label: str | None = None
    """The score is the probability of this label; by default that of the last one."""
    max_sequences: Positive = 16
    """Most responses that it reads at once."""

    def __post_init__(self) -> None:
        if not self.split:
            raise ValueError("split must be a text that is not empty, got ''")

    async def start(self, stage: Stage, name: str, *, device: str) -> Role:
        """Load the model and serve it."""
        from llmrl.roles.reader import StepReader  # noqa: PLC0415  torch is loaded where it is used

        return StepReader(self, stage, name, device=device)
