"""The jail: steps that the zygote takes once, and each of its children again, before any model's code runs.

Once: a root that holds the standard library, the shared libraries and ``/dev/null``, all of it read-only, and
namespaces without a network. For each run: namespaces of its own, an empty ``/tmp`` in memory, limits, no
capability, no descriptor but those that it is given, and the filter of system calls.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from llmrl.sandbox import kernel, landlock
from llmrl.sandbox.filter import program

Isolation = Literal["kernel", "process"]
"""Level of isolation. ``kernel``: everything. ``process``: without namespaces and a writable folder."""

_SHARED = kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWCGROUP
_OWN = kernel.NEWUSER | kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS
_MIB = 2**20
_FILES, _INODES = 64, 1024
_USER = 1000
_FRESH, _NOBODY = 0x7000_0000, 65534
"""Users that own nothing; the first range is far above those ever given to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one process in the jail."""

    cpu_s: int
    memory_mib: int
    disk_mib: int
    """Limit of its folder, and of each file and output."""
    threads: int


def libraries() -> list[str]:
    """Folders that Python reads code from: its own, and those of shared libraries."""
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    found = sorted({path for path in (*own, *system) if os.path.isdir(path)})
    return [path for path in found if not any(path.startswith(f"{outer}/") for outer in found)]


def enter_namespaces(proc: int) -> None:
    """Leave the machine's file system, network and users; the next child is the first process of a new world.

    Args:
        proc: descriptor of /proc, which is out of reach afterwards.
    Raises:
        Refused: the machine does not allow one of the primitives.
    """
    if not _may_mount():
        if os.geteuid() == 0:
            _become_nobody()
        _enter_user_namespace(proc, kernel.NEWNS, inside=0)
    _build_root()
    if os.geteuid() == 0 and _is_real_root(proc):
        _become_nobody()
    _enter_user_namespace(proc, kernel.NEWPID | kernel.NEWNS | _SHARED, inside=0)


def confine(isolation: Isolation, proc: int, bounds: Bounds) -> None:
    """Close everything but its open descriptors to this process, for good.

    Raises:
        Refused: the machine does not allow one of the primitives.
    """
    os.setsid()
    if isolation == "kernel":
        _enter_user_namespace(proc, _OWN, inside=_USER)
        flags = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
        kernel.mount("tmpfs", "/tmp", "tmpfs", flags, f"size={bounds.disk_mib}m,nr_inodes={_INODES},mode=700")
        os.chdir("/tmp")
    else:
        os.chdir("/")
    _limit(isolation, bounds)
    kernel.drop_capabilities()
    kernel.forbid_new_privileges()
    if isolation == "process":
        landlock.only_read(libraries())
    kernel.filter_calls(program(os.getpid()))


def _may_mount() -> bool:
    """Enter a mount namespace if this is a root with all its powers, as in few containers."""
    try:
        kernel.unshare(kernel.NEWNS, "mount namespace")
    except kernel.Refused:
        return False
    return True


def _build_root() -> None:
    """Make a tmpfs with the libraries the root. It is built over /proc, which every machine has."""
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", "/proc", "tmpfs", kernel.NOSUID | kernel.NODEV, "size=1m,mode=755")
    for path in libraries():
        if os.path.islink(path):
            os.symlink(os.readlink(path), f"/proc{path}")
            continue
        os.makedirs(f"/proc{path}")
        kernel.mount(path, f"/proc{path}", None, kernel.BIND | kernel.RECURSIVE)
        kernel.make_read_only(f"/proc{path}", recursive=True)
    os.makedirs("/proc/dev")
    os.close(os.open("/proc/dev/null", os.O_CREAT | os.O_WRONLY))
    kernel.mount("/dev/null", "/proc/dev/null", None, kernel.BIND)
    os.makedirs("/proc/tmp")
    kernel.change_root("/proc")
    kernel.make_read_only("/", recursive=False)


def _enter_user_namespace(proc: int, others: int, *, inside: int) -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.own_proc_files()
    kernel.unshare(kernel.NEWUSER | others, "user namespace")
    for file, text in _maps(user, group, inside):
        _write(proc, file, text)


def _maps(user: int, group: int, inside: int) -> Iterator[tuple[str, str]]:
    yield "setgroups", "deny"
    yield "uid_map", f"{inside} {user} 1"
    yield "gid_map", f"{inside} {group} 1"


def _write(proc: int, file: str, text: str) -> None:
    try:
        held = os.open(f"self/{file}", os.O_WRONLY, dir_fd=proc)
        with os.fdopen(held, "w") as opened:
            opened.write(text)
    except OSError as error:
        raise kernel.Refused(f"user namespace ({file}): {error.strerror}") from None


def _is_real_root(proc: int) -> bool:
    """Whether this root is the machine's, not that of a container, which is an ordinary user outside."""
    with os.fdopen(os.open("self/uid_map", os.O_RDONLY, dir_fd=proc)) as file:
        return file.readline().split()[:2] == ["0", "0"]


def _become_nobody() -> None:
    """Become a user of our own: root's files, processes and exemptions from limits are root's only."""
    with suppress(OSError):
        os.setgroups([])
    for user in (_FRESH + os.getpid(), _NOBODY):
        with suppress(OSError):
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return
    raise kernel.Refused("setresuid: root cannot become another user")


def _limit(isolation: Isolation, bounds: Bounds) -> None:
    limits = [
        (resource.RLIMIT_AS, bounds.memory_mib * _MIB),
        (resource.RLIMIT_CPU, bounds.cpu_s),
        (resource.RLIMIT_FSIZE, bounds.disk_mib * _MIB),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    if isolation == "kernel":  # else all threads of the user count
        limits.append((resource.RLIMIT_NPROC, bounds.threads))
    for limit, most in limits:
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
