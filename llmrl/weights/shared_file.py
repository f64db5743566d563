"""A block of bytes that another process on this machine can map: one copy in, none out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BACKEND = "llmrl-shared-memory"
"""Under this name vLLM knows the transfer that reads such a file."""

SHARED_MEMORY = Path("/dev/shm")  # the point is that it is memory


@contextmanager
def shared_file(data: NDArray[np.uint8]) -> Generator[Path]:
    """A file in memory that holds ``data`` until the block ends.

    Raises:
        OSError: shared memory is full; ``llmrl doctor`` shows what is free.
    """
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(prefix="llmrl-weights-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.data)
        yield Path(name)
    finally:
        Path(name).unlink()
