"""System calls for which Python 3.11 has no name, through ctypes; refusals name the call."""

from __future__ import annotations

import ctypes
import os
import platform

NEWNS = 0x0002_0000
NEWCGROUP = 0x0200_0000
NEWUTS = 0x0400_0000
NEWIPC = 0x0800_0000
NEWUSER = 0x1000_0000
NEWPID = 0x2000_0000
NEWNET = 0x4000_0000

NOSUID, NODEV, NOEXEC, BIND, RECURSIVE, PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x4_0000

_READ_ONLY = 0x1 | NOSUID | NODEV
_HERE = -100
_ALL_BELOW = 0x8000
_DETACH = 2
_DIE_WITH_PARENT, _SET_DUMPABLE, _SET_SECCOMP, _NO_NEW_PRIVILEGES = 1, 4, 22, 38
_SIGKILL = 9
_CAPABILITY_VERSION_3 = 0x2008_0522

_NUMBERS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}
_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The kernel refuses a primitive; the message names it and the kernel's reason."""


def unshare(flags: int, what: str) -> None:
    """Leave the namespaces of ``flags`` for new ones; a new pid namespace begins with the next child."""
    checked(what, _libc.unshare(flags))


def enter(namespace: int, kind: int, what: str) -> None:
    """Join a namespace by its descriptor."""
    checked(what, _libc.setns(namespace, kind))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    text = None if kind is None else kind.encode()
    result = _libc.mount(source.encode(), target.encode(), text, ctypes.c_ulong(flags), options.encode())
    checked(f"mount of {source} on {target}", result)


def make_read_only(path: str, *, recursive: bool) -> None:
    """Forbid writing, devices and set-uid programs on a mount, and on those below it."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    below = _ALL_BELOW if recursive else 0
    call(f"mount_setattr of {path}", _MOUNT_SETATTR, _HERE, path.encode(), below, attributes, 32)


def change_root(folder: str) -> None:
    """Make a mount the root, and the old root unreachable."""
    os.chdir(folder)
    call("pivot_root", _number("pivot_root"), b".", b".")
    checked("umount of the old root", _libc.umount2(b".", _DETACH))
    os.chdir("/")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _control("prctl(PR_SET_PDEATHSIG)", _DIE_WITH_PARENT, _SIGKILL)


def own_proc_files() -> None:
    """Own the files of this process below /proc again, which a change of user gives to root."""
    _control("prctl(PR_SET_DUMPABLE)", _SET_DUMPABLE, 1)


def drop_capabilities() -> None:
    """Give up every capability."""
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    call("capset", _number("capset"), header, nothing)


def forbid_new_privileges() -> None:
    """Forbid new privileges to every program executed from now on."""
    _control("prctl(PR_SET_NO_NEW_PRIVS)", _NO_NEW_PRIVILEGES, 1)


def filter_calls(program: bytes) -> None:
    """Let a program of classic BPF decide about every system call from now on."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    _control("prctl(PR_SET_SECCOMP)", _SET_SECCOMP, 2, ctypes.byref(Program(len(program) // 8, program)))


def call(what: str, number: int, *arguments: object) -> int:
    """Make a system call by its number.

    Raises:
        Refused: the call failed.
    """
    longs = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(what, _libc.syscall(ctypes.c_long(number), *longs))


def checked(what: str, result: int) -> int:
    """Check the result of a call, and return it.

    Raises:
        Refused: the result is negative.
    """
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _control(what: str, option: int, *arguments: object) -> None:
    longs = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    checked(what, _libc.prctl(option, *longs, *[ctypes.c_ulong(0)] * (4 - len(longs))))


def _number(name: str) -> int:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise Refused(f"{name}: its number is known for {' and '.join(_NUMBERS)} only, not for {machine}")
    return _NUMBERS[machine][name]
