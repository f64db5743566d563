"""Where weights wait for the engines: one protocol, and the store that is shared memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmrl.weights.bundle import Mapped, TensorSpec, Way, WeightBundle, aligned
from llmrl.weights.memory import SharedMemory, machine
from llmrl.weights.parcel import Parcel


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Where everything is that was written, and how engines get it."""

    specs: tuple[TensorSpec, ...]
    way: Way


class Store(Protocol):
    """Holds the bytes of each version from when it is sent until every engine has taken it."""

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """Put everything in place, a bucket at a time."""
        ...

    def seal(self, bundle: WeightBundle) -> None:
        """Complete the version: all is in place, and ``bundle`` describes it."""
        ...

    def release(self, version: int) -> None:
        """Free the version: no engine reads it any more."""
        ...


class MemoryStore:
    """Shared memory, written once per version and mapped by every engine of the machine."""

    def __init__(self) -> None:
        self._used: dict[int, SharedMemory] = {}
        self._free: list[SharedMemory] = []

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """Write into memory that no engine reads now, over what an earlier version left."""
        memory = self._free.pop() if self._free else SharedMemory()
        specs: list[TensorSpec] = []
        end = 0
        for bucket in buckets:
            for parcel in bucket:
                specs.append(parcel.at(aligned(end)))
                memory.write(parcel.host, specs[-1].start)
                end = specs[-1].stop
        self._used[version] = memory
        return Written(specs=tuple(specs), way=Mapped(place=memory.path, machine=machine()))

    def seal(self, bundle: WeightBundle) -> None:
        """No-op: the engines get the bundle itself."""

    def release(self, version: int) -> None:
        """Reuse the version's memory for the next one."""
        self._free.append(self._used.pop(version))
