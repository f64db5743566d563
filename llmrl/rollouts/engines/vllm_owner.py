"""The end of vLLM's process: with the process that started it, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable


def end_with_owner() -> None:
    """Follow the owner, in vLLM's process: by itself it would outlive an owner that is killed, and hold the
    memory of the GPU, which a resumed run needs."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        threading.Thread(target=_follow, args=[owner.join], name="owner", daemon=True).start()


def _follow(wait: Callable[[], None]) -> None:
    wait()
    # Nothing is left to report to; vLLM's own workers stop when this process does.
    os.kill(os.getpid(), signal.SIGKILL)
