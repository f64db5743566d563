"""The judge's end of this machine's jails: requests them of the zygote, watches the clock, kills, reads."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from llmrl.errors import DeadlineError, RewardError
from llmrl.sandbox.contract import Ending, Exam, Limits, Marks, Run, try_out
from llmrl.sandbox.jail import Isolation

START_DEADLINE_S = 20.0
_EXIT_S = 5.0
"""Seconds for a killed process to go, which takes milliseconds."""
_MESSAGE = 4096
_LAST_WORDS = 2000

# The parents of a module would import pydantic; here they are folders and nothing else.
_BOOT = """
import sys, types
for name in ("llmrl", "llmrl.sandbox"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[3] + "/" + name.replace(".", "/")]
from llmrl.sandbox.zygote import main
main()
"""
_ROOT = Path(__file__).resolve().parents[2]

_SERVE = "from llmrl.sandbox.guest import serve\nserve()"
_EXAMINE = "from llmrl.sandbox.guest import examine\nexamine()"


class Jails:
    """Runs programs in jails of this machine; a context manager, for one thread."""

    def __init__(self, isolation: Isolation = "kernel") -> None:
        self._isolation: Isolation = isolation
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ended: dict[int, int] = {}
        """Exit status by process id of jails that were reported as ended."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the zygote and try one jail; does nothing if that was done before.

        Raises:
            RewardError: this machine does not allow a primitive; the message names it and what to do.
            DeadlineError: the zygote was not ready within 20 s.
        """
        if self._process is not None:
            return
        self._launch()
        try:
            self._receive(time.monotonic() + START_DEADLINE_S)
            try_out(self, Limits(seconds=START_DEADLINE_S))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the zygote and every jail."""
        control, self._control = self._control, None
        process, self._process = self._process, None
        self._ended.clear()
        if control is None or process is None:
            return
        control.close()
        try:
            process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_EXIT_S)

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        """Run a program in a jail of its own."""
        self.start()
        deadline = time.monotonic() + limits.seconds
        with _files(stdin, "", "", program) as files, self._jail(files, limits) as jail:
            ending = self._end(jail, deadline)
            return _read(files, ending, limits)

    def examine(self, candidate: str, exam: Exam, *, limits: Limits) -> Marks:
        """Run tests in one jail against a candidate in another; only the tests' output counts."""
        self.start()
        deadline = time.monotonic() + limits.seconds
        code = {"setup": exam.setup, "source": candidate}
        task = {"setup": exam.setup, "tests": list(exam.tests), "functions": list(exam.functions)}
        with (
            _files(json.dumps(code), "", "", _SERVE) as theirs,
            _files(json.dumps(task), "", "", _EXAMINE) as ours,
        ):
            with ExitStack() as jails:
                with _pipes() as (asked, ask, answered, answer):
                    jails.enter_context(self._jail([*theirs, asked, answer], limits))
                    examiner = jails.enter_context(self._jail([*ours, ask, answered], limits))
                ending = self._end(examiner, deadline)
            return _marks(_read(ours, ending, limits), _read(theirs, ending, limits), len(exam.tests))

    def _launch(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT]
        arguments = [self._isolation, str(theirs.fileno()), str(_ROOT)]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *arguments],
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @contextmanager
    def _jail(self, files: Sequence[int], limits: Limits) -> Generator[_Jail]:
        """Start a jail with these descriptors; it is killed when the block ends."""
        bounds = {
            "cpu_s": math.ceil(limits.seconds) + 1,
            "memory_mib": limits.memory_mib,
            "disk_mib": limits.disk_mib,
            "threads": limits.threads,
        }
        try:
            socket.send_fds(self._open(), [json.dumps(bounds).encode()], files)
        except OSError:
            self._lost()
        jail = self._born(time.monotonic() + START_DEADLINE_S)
        try:
            yield jail
        finally:
            jail.kill()
            os.close(jail.handle)
            if self._process is not None:
                self._end(jail, time.monotonic() + _EXIT_S)
                del self._ended[jail.pid]

    def _born(self, deadline: float) -> _Jail:
        try:
            while (jail := self._receive(deadline)) is None:
                pass
        except DeadlineError:
            self.close()  # else its late answer would be taken for that of the next request
            raise
        return jail

    def _end(self, jail: _Jail, deadline: float) -> Ending:
        """Wait for a jail to end, and kill it when its time is over."""
        late = False
        while jail.pid not in self._ended:
            try:
                self._receive(deadline)
            except DeadlineError:
                if late:
                    self.close()
                    raise
                late, deadline = True, time.monotonic() + _EXIT_S
                jail.kill()
        return "late" if late else "failed" if self._ended[jail.pid] else "ended"

    def _receive(self, deadline: float) -> _Jail | None:
        """Receive the next message; returns a new jail, or records an end."""
        control = self._open()
        control.settimeout(max(deadline - time.monotonic(), 1e-6))
        try:
            data, handles, _, _ = socket.recv_fds(control, _MESSAGE, 1)
        except TimeoutError:
            raise DeadlineError("sandbox: the sandbox did not answer in time.") from None
        except OSError:
            self._lost()
        if not data:
            self._lost()
        message: dict[str, Any] = json.loads(data)
        if "refused" in message:
            self.close()
            raise RewardError(refusal(message["refused"], self._isolation))
        if handles:
            return _Jail(pid=message["pid"], handle=handles[0])
        if "pid" in message:
            self._ended[message["pid"]] = message["status"]
        return None

    def _open(self) -> socket.socket:
        return self._control or self._lost()

    def _lost(self) -> NoReturn:
        self.close()
        raise RewardError("sandbox: the process that makes sandboxes is gone; the next run starts another.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jail:
    pid: int
    """Process id as the zygote sees it."""
    handle: int
    """Descriptor of the process, which, unlike an id, never comes to mean another."""

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)


def refusal(reason: str, isolation: Isolation) -> str:
    """The error for a user whose machine does not allow a primitive."""
    weaker = " or name the weaker level with isolation = 'process'" if isolation == "kernel" else ""
    return (
        f"sandbox: this machine allows no sandbox of isolation '{isolation}': {reason}. Allow it "
        f"(docs/sandbox.md says how){weaker}; model-written code is not run without a sandbox."
    )


@contextmanager
def _files(*contents: str) -> Generator[list[int]]:
    """Files in memory; each is read or written from its beginning."""
    files = [os.memfd_create("llmrl") for _ in contents]
    try:
        for file, content in zip(files, contents, strict=True):
            with os.fdopen(os.dup(file), "wb") as opened:
                opened.write(content.encode(errors="replace"))
            os.lseek(file, 0, os.SEEK_SET)
        yield files
    finally:
        for file in files:
            os.close(file)


@contextmanager
def _pipes() -> Generator[tuple[int, int, int, int]]:
    """Two pipes, each as its read end and its write end."""
    ends = (*os.pipe(), *os.pipe())
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _read(files: Sequence[int], ending: Ending, limits: Limits) -> Run:
    """The result that a program left; it is dead, so nothing changes any more."""
    _, output, errors, _ = files
    length, most = os.fstat(output).st_size, limits.output_kib * 1024
    said = os.pread(errors, _LAST_WORDS, max(os.fstat(errors).st_size - _LAST_WORDS, 0))
    return Run(
        ending="overflow" if length > most else ending,
        output=os.pread(output, most, 0).decode(errors="replace"),
        errors=said.decode(errors="replace"),
    )


def _marks(examiner: Run, candidate: Run, tests: int) -> Marks:
    """The examiner's result, if it came to its end; its jail has never seen the candidate's code."""
    if examiner.ending != "ended":
        note = candidate.errors or examiner.errors
        return Marks(passed=(False,) * tests, note=f"{examiner.ending} {note}".strip())
    found: dict[str, Any] = json.loads(examiner.output)
    note = next((note for note in found["notes"] if note), "")
    return Marks(passed=tuple(found["passed"]), note=f"{note} {candidate.errors}".strip())
