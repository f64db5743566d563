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
"""What an array is of its tensor: all of it; where it changed and to what; or an adapter that is added."""

Way = Literal["place", "group", "device"]
"""They lie at a place, or are broadcast, a file at a time, in the group that engines have joined, or wait on
the engine's own GPU, where each file is a handle."""

ORIGINAL = -1
"""As the base of a bundle: the model folder, which every engine has."""

ALIGNMENT = 64
"""Bytes; every array in a block starts where any dtype may start, and on a cache line."""

Words = NDArray[np.unsignedinteger]
"""The bits of a tensor's elements, flat."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Where one array lies in the bundle's bytes.

    Without slots, with which pickle takes three times as long: every engine reads one for every tensor.
    """

    name: str
    """Of the tensor in the Hugging Face state dict."""
    shape: tuple[int, ...]
    dtype: str
    """``float32``, ``bfloat16``, ...; an index is ``uint32``, flat and ascending."""
    start: int
    """Offset in bytes."""
    stop: int
    part: Part = "whole"
    file: str = ""
    """Whose bytes these are: a file's below the bundle's place, or the place's own if this is empty; of what
    does not lie at a place, the bucket's, by its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """Memory of a GPU that another process of the machine may open."""

    device: str
    """Its UUID."""
    size: int
    """Bytes."""
    storage: tuple[bytes, int, int]
    """CUDA's handle of the allocation, the bytes of the storage, and where in the allocation it begins."""
    event: tuple[bytes, int, bytes, bool]
    """Torch's count of who uses it (its file and place), and the event that ends its writing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A few tokens and what the policy thinks of them: the proof that an engine serves its weights."""

    tokens: NDArray[np.int32]
    """[L] token ids."""
    logp: NDArray[np.float32]
    """[L] nats at temperature 1; the first is 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightBundle:
    """What turns an engine's weights into those of one version: all tensors, or only what differs.

    Engines are given complete ones only; what is less becomes complete in the ``Inbox`` before them.
    """

    version: int
    """Optimizer steps taken when these weights were made."""
    base: int | None = None
    """The version that it changes, or ``ORIGINAL``; None: complete."""
    kept: bool = False
    """Whether bundles that change this one may follow."""
    changed: float = 1.0
    """Share of all elements whose bits differ from those of a base version."""
    specs: tuple[TensorSpec, ...]
    left_out: frozenset[str] = frozenset()
    """Tensors of the model folder that transformers does not load, such as a copy of a tied head."""
    place: Path
    """A file that can be mapped, or a folder of such files."""
    machine: str | None
    """Whose processes can open ``place``; None: everybody's."""
    way: Way = "place"
    """How the bytes are got at."""
    handles: tuple[Handle, ...] = ()
    """Of the files, if they are on a GPU."""
    data: NDArray[np.uint8] | None = None
    """The bytes of ``place``, for an engine that cannot open it."""
    probe: Probe

    @property
    def size(self) -> int:
        """Bytes that travel."""
        return sum(spec.stop - spec.start for spec in self.specs)

    def copied(self) -> NDArray[np.uint8]:
        """The bytes of ``place``, which is a file, to be sent along."""
        return mapped(self.place)[: max((spec.stop for spec in self.specs), default=0)]

    def arrays(self) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
        """Every array with its bytes, mapped rather than read."""
        yield from arrays(self.place, self.specs, {} if self.data is None else {"": self.data})


def arrays(
    place: Path, specs: Iterable[TensorSpec], blocks: Mapping[str, NDArray[np.uint8]] = MappingProxyType({})
) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
    """Every array below ``place`` with its bytes; ``blocks`` are the files that are in memory already."""
    opened = dict(blocks)
    for spec in specs:
        if spec.file not in opened:
            opened[spec.file] = mapped(place / spec.file)
        yield spec, opened[spec.file][spec.start : spec.stop]


def aligned(end: int) -> int:
    """Where the next array may start."""
    return -(-end // ALIGNMENT) * ALIGNMENT


def words(data: NDArray[np.uint8], *, elements: int) -> Words:
    """The bits of each element, by which two are equal even if they are not numbers."""
    return data.view(f"u{data.size // elements}") if elements else data
