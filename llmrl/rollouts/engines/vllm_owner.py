"""Whose vLLM's process is: it ends with the process that started it, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable


def end_with_owner() -> None:
    """Called in vLLM's process. By itself it would outlive an owner that is killed, and go on to hold the
    memory of the GPU, which whoever resumes the run needs."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        threading.Thread(target=_follow, args=[owner.join], name="owner", daemon=True).start()


def _follow(wait: Callable[[], None]) -> None:
    wait()
    # Nobody is left to be told anything; workers of its own vLLM ends as it ends.
    os.kill(os.getpid(), signal.SIGKILL)
