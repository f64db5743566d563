"""One run at a time works in a run folder: two would write one ledger and delete each other's saves."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from llmrl.errors import RecipeError

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of a file system that does not support locks."""


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Keep other runs, on any machine, out of this folder while the block runs.

    The lock is a file beside the folder: file systems that machines share lock files, not folders.

    Raises:
        RecipeError: another run works in the folder, or no folder can be made there.
    """
    path = folder.with_name(f".{folder.name}.lock")
    handle = _opened(path)
    try:
        # A lock with no links was deleted by a run that just finished.
        if not _locked(handle) or not os.fstat(handle).st_nlink:
            raise RecipeError(
                f"run.name: another llmrl is at work in {folder}; wait for its end, or rename the run."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RecipeError(
            f"run.folder: nothing can be written into {path.parent} ({error.strerror}); name another folder."
        ) from error


def _locked(handle: int) -> bool:
    """Take the lock; returns False if another process holds it, as far as the file system can tell."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
