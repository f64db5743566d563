"""Weights on their way from the policy to the engines, with the proof that they arrived."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmrl.weights.memory import mapped

Part = Literal["whole", "index", "value", "down", "up", "scale"]
"""Part of a tensor that an array is: all of it; places and values of changes; or a factor of an adapter."""

ORIGINAL = -1
"""Base of a bundle that changes the model folder, which every engine has."""

ALIGNMENT = 64
"""Bytes; every array in a block starts where any dtype may start, and on a cache line."""

Words = NDArray[np.unsignedinteger]
"""The bits of a tensor's elements, flat."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Where one array lies in the bundle's bytes.

    Without slots, as pickle would take three times as long: every engine reads one per tensor.
    """

    name: str
    """Name of the tensor in the Hugging Face state dict."""
    shape: tuple[int, ...]
    dtype: str
    """``float32``, ``bfloat16``, ...; an index is ``uint32``, flat and ascending."""
    start: int
    """Offset in the file, in bytes."""
    stop: int
    part: Part = "whole"
    file: str = ""
    """Name of the file with the bytes, below the place that is mapped; empty if the place is the file. If
    nothing is mapped, the number of the bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A block of GPU memory that another process of the machine may open."""

    device: str
    """UUID of the GPU."""
    size: int
    """Size of the block in bytes."""
    storage: tuple[bytes, int, int]
    """CUDA's handle of the allocation, bytes of the storage, and the storage's offset in the allocation."""
    event: tuple[bytes, int, bytes, bool]
    """Torch's reference count (its file and offset), and the event that marks the end of writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Bytes in files, which processes map into their memory."""

    place: Path
    """Path of the file, or of a folder of files."""
    machine: str | None = None
    """Name of the machine whose processes can open ``place``; None for a sealed folder, which all can."""

    def arrays(
        self, specs: Iterable[TensorSpec], blocks: Mapping[str, NDArray[np.uint8]] = MappingProxyType({})
    ) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
        """Every array with its bytes, which are mapped; ``blocks`` are files that are in memory already."""
        opened = dict(blocks)
        for spec in specs:
            if spec.file not in opened:
                opened[spec.file] = mapped(self.place / spec.file)
            yield spec, opened[spec.file][spec.start : spec.stop]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Bytes that are broadcast, a bucket at a time, in the group that engines have joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """Bytes in memory of the engine's own GPU."""

    handles: tuple[Handle, ...]
    """A handle for each bucket."""


Way = Mapped | Broadcast | OnDevice
"""Route by which an engine gets the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A few tokens and the policy's logprobs of them: the proof that an engine serves its weights."""

    tokens: NDArray[np.int32]
    """[L] token ids."""
    logp: NDArray[np.float32]
    """[L] logprobs in nats at temperature 1; the first is 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightBundle:
    """All that turns an engine's weights into those of one version: all tensors, or only the differences.

    Engines load complete bundles only: what is mapped is completed by the ``Inbox`` in front of an engine,
    what is broadcast by its ``Receiver``.
    """

    version: int
    """Optimizer steps taken when these weights were made."""
    base: int | None = None
    """The version that the bundle changes, or ``ORIGINAL``; None if it is complete."""
    kept: bool = False
    """Whether later bundles may change this one."""
    changed: float = 1.0
    """Share of all elements whose bits differ from those of a base version."""
    specs: tuple[TensorSpec, ...]
    left_out: frozenset[str] = frozenset()
    """Tensors of the model folder that transformers does not load, such as a copy of a tied head."""
    way: Way
    probe: Probe

    @property
    def size(self) -> int:
        """Number of bytes that travel."""
        return sum(spec.stop - spec.start for spec in self.specs)

    def copied(self) -> NDArray[np.uint8]:
        """A copy of the bytes, which are in a file, for engines that cannot open it."""
        assert isinstance(self.way, Mapped), "a broadcast reaches every machine, and needs no copy"
        return mapped(self.way.place)[: max((spec.stop for spec in self.specs), default=0)]


def aligned(end: int) -> int:
    """Offset at which the next array may start."""
    return -(-end // ALIGNMENT) * ALIGNMENT


def words(data: NDArray[np.uint8], *, elements: int) -> Words:
    """The bits of each element, for comparisons in which NaNs may be equal."""
    return data.view(f"u{data.size // elements}") if elements else data
