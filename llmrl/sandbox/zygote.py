"""The zygote: a process without resources that forks one jail for each request.

It is a bare Python with the standard library loaded. It never sees what is run: a request has limits and
open descriptors, the program's text among them, which only the jailed child reads.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import resource
import select
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from llmrl.sandbox import guest, kernel
from llmrl.sandbox.jail import Bounds, Isolation, confine, enter_namespaces

LOADED = """
array bisect calendar cmath collections copy csv ctypes dataclasses datetime decimal encodings.idna enum
fractions functools hashlib heapq inspect io itertools json linecache math numbers operator pprint queue
random re secrets statistics string textwrap threading time traceback types typing unicodedata uuid zoneinfo
"""
"""Modules that programs import most often, which a child need not load again."""
PROGRAM = 3
"""Descriptor of the program's text in a jail, after those of its input and output."""
_OURS = 32
"""First of our descriptors, above all that a jail is given."""
_REQUEST = 4096


def main() -> None:
    """Run as ``zygote ISOLATION CONTROL``: the level, and the descriptor of the socket for requests."""
    os.environ.clear()
    isolation: Isolation = "kernel" if sys.argv[1] == "kernel" else "process"
    control = socket.socket(fileno=_moved(int(sys.argv[2])))
    proc = _moved(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
    for module in LOADED.split():
        importlib.import_module(module)
    try:
        if isolation == "kernel":
            enter_namespaces(proc)
            _continue_in_child(control)
        kernel.die_with_parent()
    except kernel.Refused as refusal:
        _tell(control, {"refused": str(refusal)})
        return
    gc.collect()
    gc.freeze()
    _tell(control, {"ready": True})
    Zygote(isolation, control, proc).serve()


class Zygote:
    """Forks jails, and reports how they ended."""

    def __init__(self, isolation: Isolation, control: socket.socket, proc: int) -> None:
        self._isolation: Isolation = isolation
        self._control, self._proc = control, proc
        self._pids = _moved(os.open("self/ns/pid", os.O_RDONLY, dir_fd=proc))
        self._jails: dict[int, int] = {}
        """Process ids by the descriptors that become readable when they end."""

    def serve(self) -> None:
        """Serve until the other end of the socket is closed; all jails end with this process."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready in self._jails:
                    poll.unregister(ready)
                    self._bury(ready)
                elif (jail := self._jail_next()) is not None:
                    poll.register(jail, select.POLLIN)
                else:
                    return

    def _jail_next(self) -> int | None:
        """Fork the requested jail; None if the other end is closed."""
        request, descriptors, _, _ = socket.recv_fds(self._control, _REQUEST, 8)
        if not request:
            return None
        pid = self._fork()
        if not pid:
            self._be_jailed(Bounds(**json.loads(request)), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        jail = _moved(os.pidfd_open(pid))
        self._jails[jail] = pid
        socket.send_fds(self._control, [json.dumps({"pid": pid}).encode()], [jail])
        return jail

    def _fork(self) -> int:
        if self._isolation == "process":
            return os.fork()
        kernel.unshare(kernel.NEWPID, "pid namespace")
        pid = os.fork()
        if pid:
            kernel.enter(self._pids, kernel.NEWPID, "pid namespace of the zygote")
        return pid

    def _be_jailed(self, bounds: Bounds, descriptors: list[int]) -> NoReturn:
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            if self._isolation == "process":
                kernel.die_with_parent()
            confine(self._isolation, self._proc, bounds)
        except (kernel.Refused, OSError) as refusal:
            _tell(self._control, {"refused": str(refusal)})
            os._exit(1)
        with open(PROGRAM, encoding="utf-8") as file:
            text = file.read()
        self._control.detach()
        os.closerange(len(descriptors), most)
        guest.run_program(text)

    def _bury(self, jail: int) -> None:
        pid = self._jails.pop(jail)
        os.close(jail)
        _, status = os.waitpid(pid, 0)
        _tell(self._control, {"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _continue_in_child(control: socket.socket) -> None:
    """Continue in a child, the first process of the pid namespace; this one only waits for it."""
    pid = os.fork()
    if pid:
        control.close()
        os.waitpid(pid, 0)
        os._exit(0)


def _moved(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OURS)
    os.close(descriptor)
    return moved


def _tell(control: socket.socket, message: object) -> None:
    with suppress(OSError):  # nobody listens any more; the next request will say so
        control.send(json.dumps(message).encode())
