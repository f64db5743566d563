"""Landlock: an unprivileged process closes the file system to itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from llmrl.sandbox.kernel import Refused, call

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION = 1
_BELOW_PATH = 1
_READ = 1 << 2 | 1 << 3
"""Rights to read files, and the names in folders."""
_LEAST = 3
"""Least version; older ones cannot keep a file from being emptied."""
_RIGHTS = {3: 15, 4: 15}
"""Number of rights over files by version; from 5 on it is 16."""
_TCP = 0x3
"""Rights to bind and connect, from version 4 on."""
_SCOPES = 0x3
"""Scopes of abstract sockets and of signals to others, from version 6 on."""


def only_read(folders: Iterable[str]) -> None:
    """Close every file outside ``folders`` to this process for good, and files inside for writing.

    Raises:
        Refused: the kernel has no Landlock, or too old a version of it.
    """
    has = call("Landlock", _CREATE, None, 0, _ASK_VERSION)
    if has < _LEAST:
        raise Refused(f"Landlock: the kernel has version {has}, but {_LEAST} is needed (Linux 6.2)")
    size = 24 if has >= 6 else 16 if has >= 4 else 8
    closed = (ctypes.c_uint64 * 3)((1 << _RIGHTS.get(has, 16)) - 1, _TCP, _SCOPES)
    rules = call("landlock_create_ruleset", _CREATE, closed, size, 0)
    for folder in folders:
        _open(rules, folder)
    call("landlock_restrict_self", _RESTRICT, rules, 0)
    os.close(rules)


def _open(rules: int, folder: str) -> None:
    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))

    held = os.open(folder, os.O_PATH)
    call(f"landlock_add_rule for {folder}", _ADD, rules, _BELOW_PATH, ctypes.byref(Rule(_READ, held)), 0)
    os.close(held)
