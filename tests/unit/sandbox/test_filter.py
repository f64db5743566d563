"""The filter of system calls, checked against the kernel's own lists and by running it on paper."""

from __future__ import annotations

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from llmrl.sandbox.filter import ALLOWED, CONDITIONAL, program

HEADERS = {
    1: (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), re.compile(r"#define __NR_(\w+)\s+(\d+)")),
    2: (Path("/usr/include/asm-generic/unistd.h"), re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")),
}
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
X86_64, I386 = 0xC000003E, 0x40000003
FORBIDDEN = """
fork vfork execve execveat socket connect bind sendmsg recvmsg kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
pidfd_open pidfd_send_signal ptrace process_vm_readv process_vm_writev mount umount2 move_mount pivot_root
chroot unshare setns bpf io_uring_setup keyctl add_key perf_event_open userfaultfd memfd_create shmget
msgget semget mq_open timer_create prctl seccomp capset setuid setgid setresuid chmod fchmod chown mknod
setxattr personality init_module kexec_load reboot swapon ioperm iopl modify_ldt quotactl acct
open_by_handle_at name_to_handle_at
"""


def decide(call: int, *arguments: int, architecture: int = X86_64) -> int:
    """What the program answers for a call, as the kernel would run it."""
    data = struct.pack("=IIQ6Q", call, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code, value, at = program(77), 0, 0
    while True:
        kind, yes, no, k = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif kind == 0x06:
            return k
        else:
            taken = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[kind]
            at += yes if taken else no


def numbers(column: int) -> dict[str, int]:
    header, pattern = HEADERS[column]
    if not header.is_file():
        pytest.skip(f"there is no {header}")
    found = {name: int(number) for name, number in pattern.findall(header.read_text())}
    return found | ({"newfstatat": found["fstatat"]} if "fstatat" in found else {})


@pytest.mark.parametrize("column", [1, 2], ids=["x86_64", "aarch64"])
def test_every_number_is_the_kernels(column: int) -> None:
    known = numbers(column)
    entries = [entry.split(":") for entry in f"{ALLOWED} {CONDITIONAL}".split()]

    wrong = [entry for entry in entries if entry[column] != "-" and known[entry[0]] != int(entry[column])]

    assert (wrong, len(entries)) == ([], len({entry[0] for entry in entries}))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls below are those of x86_64")
def test_nothing_that_reaches_beyond_the_process_is_allowed() -> None:
    known = numbers(1)

    assert [name for name in FORBIDDEN.split() if decide(known[name]) != FAIL | errno.EPERM] == []
    assert decide(known["execve"] | 0x40000000) == FAIL | errno.EPERM
    assert decide(known["read"], architecture=I386) == KILL
    assert decide(9999) == FAIL | errno.EPERM


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls below are those of x86_64")
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("read", (), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (0x1200011,), FAIL | errno.EPERM),
        ("clone", (0x10000000 | 17,), FAIL | errno.EPERM),
        ("clone3", (), FAIL | errno.ENOSYS),
        ("fcntl", (1, 4), ALLOW),
        ("fcntl", (1, 8, 1), FAIL | errno.EPERM),
        ("fcntl", (1, 10, 9), FAIL | errno.EPERM),
        ("fcntl", (1, 15), FAIL | errno.EPERM),
        ("ioctl", (0, 0x5421), ALLOW),
        ("ioctl", (0, 0x5412), FAIL | errno.ENOTTY),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), FAIL | errno.EPERM),
        ("socketpair", (1,), ALLOW),
        ("socketpair", (30,), FAIL | errno.EPERM),
        ("tgkill", (77, 77, 6), ALLOW),
        ("tgkill", (78, 78, 6), FAIL | errno.EPERM),
    ],
)
def test_a_call_that_may_reach_others_is_allowed_for_the_process_itself(
    name: str, arguments: tuple[int, ...], answer: int
) -> None:
    assert decide(numbers(1)[name], *arguments) == answer
