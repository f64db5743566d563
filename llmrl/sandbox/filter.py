"""The system calls that jailed code may make: a list of what Python needs to compute, as a seccomp program.

Everything else fails with EPERM: no program is executed, no process forked, no socket opened, nobody
signalled or traced, nothing mounted, and no key, ring, timer, message queue or namespace made.
"""

from __future__ import annotations

import errno
import platform
import struct

from llmrl.sandbox.kernel import Refused

# Each name with its number on x86_64 and on aarch64; there, those with a dash are made of newer ones.
_FILES = """
access:21:- chdir:80:49 close:3:57 close_range:436:436 dup:32:23 dup2:33:- dup3:292:24 faccessat:269:48
faccessat2:439:439 fadvise64:221:223 fallocate:285:47 fchdir:81:50 fdatasync:75:83 flock:73:32 fstat:5:80
fstatfs:138:44 fsync:74:82 ftruncate:77:46 getcwd:79:17 getdents64:217:61 link:86:- linkat:265:37 lseek:8:62
lstat:6:- mkdir:83:- mkdirat:258:34 newfstatat:262:79 open:2:- openat:257:56 pipe:22:- pipe2:293:59
pread64:17:67 preadv:295:69 pwrite64:18:68 pwritev:296:70 read:0:63 readlink:89:- readlinkat:267:78
readv:19:65 rename:82:- renameat:264:38 renameat2:316:276 rmdir:84:- sendfile:40:71 stat:4:- statfs:137:43
statx:332:291 symlink:88:- symlinkat:266:36 truncate:76:45 umask:95:166 unlink:87:- unlinkat:263:35
write:1:64 writev:20:66
"""
_WAITING = """
epoll_create1:291:20 epoll_ctl:233:21 epoll_pwait:281:22 epoll_wait:232:- eventfd2:290:19 pause:34:-
poll:7:- ppoll:271:73 pselect6:270:72 recvfrom:45:207 select:23:- shutdown:48:210 wait4:61:260
waitid:247:95
"""
_MEMORY = """
brk:12:214 madvise:28:233 membarrier:324:283 mmap:9:222 mprotect:10:226 mremap:25:216 msync:26:227
munmap:11:215
"""
_CLOCKS = """
alarm:37:- clock_getres:229:114 clock_gettime:228:113 clock_nanosleep:230:115 getitimer:36:102
gettimeofday:96:169 nanosleep:35:101 setitimer:38:103 time:201:- times:100:153
"""
_THREADS_AND_SIGNALS = """
arch_prctl:158:- exit:60:93 exit_group:231:94 futex:202:98 restart_syscall:219:128 rseq:334:293
rt_sigaction:13:134 rt_sigpending:127:136 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigsuspend:130:133
rt_sigtimedwait:128:137 sched_get_priority_max:146:125 sched_get_priority_min:147:126
sched_getaffinity:204:123 sched_yield:24:124 set_robust_list:273:99 set_tid_address:218:96
sigaltstack:131:132
"""
_ABOUT_ITSELF = """
getegid:108:177 geteuid:107:175 getgid:104:176 getgroups:115:158 getpgid:121:155 getpgrp:111:- getpid:39:172
getppid:110:173 getrandom:318:278 getresgid:120:150 getresuid:118:148 getrlimit:97:163 getrusage:98:165
getsid:124:156 gettid:186:178 getuid:102:174 sysinfo:99:179 uname:63:160
"""
CONDITIONAL = (
    "clone:56:220 clone3:435:435 fcntl:72:25 ioctl:16:29 prlimit64:302:261 sendto:44:206 socketpair:53:199"
    " tgkill:234:131"
)

ALLOWED = " ".join((_FILES, _WAITING, _MEMORY, _CLOCKS, _THREADS_AND_SIGNALS, _ABOUT_ITSELF))
"""``name:number:number`` of every call that is always allowed."""

_MACHINES = {"x86_64": (1, 0xC000_003E), "aarch64": (2, 0xC000_00B7)}
"""Column in the lists, and seccomp's name of the architecture."""
_X32 = 0x4000_0000
"""First of the call numbers that are a second way to the calls of x86_64."""

_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_THREAD = 0x0001_0000
"""The flag of a clone that stays in its process."""
_OWN_DESCRIPTORS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Commands of fcntl for descriptors, flags and locks, but not F_SETOWN and its like, which signal others."""
_NON_BLOCKING, _CLOSE_ON_EXEC = 0x5421, 0x5451
_UNIX = 1

_Instruction = tuple[int, int, int, int]


def program(pid: int) -> bytes:
    """The filter for the process ``pid`` as classic BPF, eight bytes an instruction.

    Raises:
        Refused: the machine is neither x86_64 nor aarch64.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise Refused(f"seccomp: the system calls of {machine} are unknown, only {' and '.join(_MACHINES)}")
    column, architecture = _MACHINES[machine]
    always, sometimes = _numbers(ALLOWED, column), _numbers(CONDITIONAL, column)
    steps: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
    for number in always.values():
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    steps += _if(sometimes["clone"], 0, _BITS, (_THREAD,))
    steps += _if(sometimes["clone3"], 0, _EQUAL, (), otherwise=errno.ENOSYS)  # the C library then takes clone
    steps += _if(sometimes["fcntl"], 1, _EQUAL, _OWN_DESCRIPTORS)
    # "No terminal" is the answer that Python expects of a file.
    steps += _if(sometimes["ioctl"], 1, _EQUAL, (_NON_BLOCKING, _CLOSE_ON_EXEC), otherwise=errno.ENOTTY)
    steps += _if(sometimes["prlimit64"], 0, _EQUAL, (0,))
    # Only to the other end of its own pair: sockets elsewhere have an address, and an address has a length.
    steps += _if(sometimes["sendto"], 5, _EQUAL, (0,))
    steps += _if(sometimes["socketpair"], 0, _EQUAL, (_UNIX,))
    steps += _if(sometimes["tgkill"], 0, _EQUAL, (pid,))
    steps.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _if(
    number: int, argument: int, test: int, values: tuple[int, ...], *, otherwise: int = errno.EPERM
) -> list[_Instruction]:
    """Allow a call if the lower half of an argument passes the test with one of the values."""
    steps = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
    for value in values:
        steps += [(test, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_RETURN, 0, 0, _FAIL | otherwise))
    return [(_EQUAL, 0, len(steps), number), *steps]


def _numbers(calls: str, column: int) -> dict[str, int]:
    entries = (call.split(":") for call in calls.split())
    return {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}
