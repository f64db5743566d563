"""A seal: files are on the disk, and a manifest beside them says what they are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def described(file: Path) -> dict[str, Any]:
    """What a manifest says of a file: its size in bytes and its sha256."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def flush(path: Path) -> None:
    """Wait until a file is on the disk; of a folder, until the names in it are."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
