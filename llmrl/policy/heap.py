"""The heap of a process that trains on a CPU: memory freed by one step stays for the next."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``: how much may lie free at the end of the heap, and how many blocks may
have pages of their own, which are returned when freed."""

NEVER_TRIM, NONE = -1, 0


def keep_freed_memory() -> None:
    """Have malloc reuse freed memory instead of returning it to the system.

    Every large tensor is new in every step, and the system clears each page before its first write. Other C
    libraries are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(MMAP_MAX, NONE)
        set_option(TRIM_THRESHOLD, NEVER_TRIM)
