"""Memory with a path: any process of this machine can map it, and it is freed when no process uses it."""

from __future__ import annotations

import mmap
import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOOT = Path("/proc/sys/kernel/random/boot_id")


class SharedMemory:
    """An unnamed file in memory: a killed process leaves nothing behind.

    It is not in /dev/shm, whose 64 MiB in a container no model fits into.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("llmrl-weights")
        # Kept: to map it anew for every version would cost more than to fill it.
        self._block: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def __del__(self) -> None:
        os.close(self._file)

    @property
    def path(self) -> Path:
        """Path at which processes of the same user and machine can open it while this one lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file}")

    def write(self, data: NDArray[np.uint8], start: int) -> None:
        """Put bytes at an offset; overwriting takes no new memory."""
        self.array(start + data.size)[start:] = data

    def array(self, size: int) -> NDArray[np.uint8]:
        """The first ``size`` bytes, to read and to change in place."""
        if size > self._block.size:
            # Twice as much as before, so that a block that grows is mapped a few times only; memory is
            # taken when it is written to.
            os.ftruncate(self._file, max(size, 2 * self._block.size))
            self._block = np.frombuffer(mmap.mmap(self._file, 0), dtype=np.uint8)
        return self._block[:size]


class Windows:
    """Other processes' shared memory, each mapped once: mapping costs more than reading."""

    def __init__(self) -> None:
        self._open: dict[int, NDArray[np.uint8]] = {}

    def on(self, path: Path) -> NDArray[np.uint8]:
        """All bytes of the memory with this path, read-only; its owner writes every version into them."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # A number is not given again while the memory is mapped here; a block that grew is another one.
            block = self._open.get(status.st_ino)
            if block is None or block.size != status.st_size:
                block = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
                self._open[status.st_ino] = block
            return block


def mapped(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file; what is written to them stays in this process."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, dtype=np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)


@cache
def machine() -> str:
    """An identifier equal for processes that can open each other's memory."""
    return f"{BOOT.read_text().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"
