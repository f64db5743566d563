"""One process of a program that is an agent: a row of JSON goes in, a line with its outcome comes out."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, cast

from llmrl.errors import DeadlineError, EngineError, shown

OUTCOMES = ("outcome", "abstain", "error")
"""Keys of an outcome: a line of output that is a JSON object with one of them is the result of a row."""

_POLL_S = 0.05
"""Polling interval: a process may end while its children hold its output open."""
_CHUNK = 2**16
"""Bytes of one read, and of the longest line that can be an outcome."""
_LAST_READS = 64
"""Most final reads of a dead process's pipes; only a descendant outside of its group could go on writing."""
_LAST_WORDS = 300


class AgentProcess:
    """A process in a group of its own, which is killed at its :meth:`end`, and when our process ends.

    One thread at a time may ask it; any thread may end it.
    """

    def __init__(
        self, command: Sequence[str], *, folder: str, variables: Mapping[str, str], many: bool
    ) -> None:
        """Start the process.

        Args:
            variables: its whole environment.
            many: whether it takes one row after another; otherwise its input ends after the first.
        Raises:
            EngineError: the process cannot be started.
        """
        self._name = shown(" ".join(command))
        self._many = many
        self._unsent = self._unread = self._words = b""
        self._said: list[dict[str, Any]] = []
        """The first outcome that was not returned yet, and the last."""
        self._burial = threading.Lock()
        try:
            self._process, self._lifeline = _started(command, folder=folder, variables=variables)
        except OSError as error:
            raise EngineError(f"{self._name} cannot be started: {error}.") from error
        self._input, output, errors = map(
            _pipe, (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._pipes = selectors.DefaultSelector()
        self._pipes.register(output, selectors.EVENT_READ, self._hear)
        self._pipes.register(errors, selectors.EVENT_READ, self._overhear)

    @property
    def ready(self) -> bool:
        """Whether it takes another row: one that printed a second outcome would answer the next row with it,
        and one that left some of the last row unread would take the next one for the rest of it."""
        return self._many and not self._over() and not self._heard() and not self._unsent

    def ask(self, row: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        """Send a row; returns its result, an object with one of ``OUTCOMES``.

        A process for many rows answers with an outcome; one for a single row answers when it ends.

        Raises:
            DeadlineError: there was no answer in time; the process has been killed.
            EngineError: it ended without one, or with an error.
        """
        due = time.monotonic() + seconds
        self._unsent = json.dumps(row).encode() + b"\n"
        self._pipes.register(self._input, selectors.EVENT_WRITE, self._tell)
        while not (self._many and self._said):
            if self._over():
                return self._last_said()
            if time.monotonic() > due:
                self.end()
                raise DeadlineError(f"{self._name} did not end within deadline_s = {seconds:g}{self._last}")
            self._attend(_POLL_S)
        return self._said.pop(0)

    def end(self) -> None:
        """Kill the process with its group; it is reaped only then, so that its id cannot be another's yet."""
        with self._burial:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                os.close(self._lifeline)

    def close(self) -> None:
        """End it and close its pipes; only for the thread that asks it, or once none does."""
        self.end()
        for key in [*self._pipes.get_map().values()]:
            self._drop(cast("IO[bytes]", key.fileobj))
        self._input.close()
        self._pipes.close()

    def _over(self) -> bool:
        with self._burial:  # once another thread has reaped it, its id must not be used
            if self._process.returncode is not None:
                return True
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _last_said(self) -> dict[str, Any]:
        self.end()
        self._heard()
        self._listen(self._unread)  # a last line without an end
        status = self._process.returncode
        if not self._said or status:
            ending = f"status {status}" if status >= 0 else signal.Signals(-status).name
            outcome = "" if self._said else " and without an outcome"
            raise EngineError(f"{self._name} ended with {ending}{outcome}{self._last}")
        return self._said[0 if self._many else -1]

    def _heard(self) -> bool:
        """Whether all output so far holds an outcome that was not returned yet."""
        for _ in range(_LAST_READS):
            if not self._attend(0):
                break
        return bool(self._said)

    def _attend(self, seconds: float) -> bool:
        """Read and write what is ready; returns whether there was anything."""
        events = self._pipes.select(seconds)
        for key, _ in events:
            key.data(cast("IO[bytes]", key.fileobj))
        return bool(events)

    def _tell(self, pipe: IO[bytes]) -> None:
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent) :]
        except BrokenPipeError:  # a program need not read its row
            self._unsent = b""
        if not self._unsent:
            self._pipes.unregister(pipe)
            if not self._many:
                pipe.close()

    def _hear(self, pipe: IO[bytes]) -> None:
        *lines, self._unread = (self._unread + self._overhear(pipe)).split(b"\n")
        for line in lines:
            self._listen(line)
        self._unread = self._unread[-_CHUNK:]

    def _overhear(self, pipe: IO[bytes]) -> bytes:
        data = os.read(pipe.fileno(), _CHUNK)
        self._words = (self._words + data)[-_LAST_WORDS:]
        if not data:
            self._drop(pipe)
        return data

    def _listen(self, line: bytes) -> None:
        with suppress(ValueError, RecursionError):
            found: object = json.loads(line)
            if isinstance(found, dict) and any(key in found for key in OUTCOMES):
                self._said = [*self._said[:1], cast("dict[str, Any]", found)]

    def _drop(self, pipe: IO[bytes]) -> None:
        self._pipes.unregister(pipe)
        pipe.close()

    @property
    def _last(self) -> str:
        """The end of a sentence about its death: its last words."""
        words = " ".join(self._words.decode(errors="replace").split())
        return f"; its last words: {shown(words, _LAST_WORDS)}." if words else "; it said nothing."


def _started(
    command: Sequence[str], *, folder: str, variables: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process; also returns the end of a pipe that only our process holds open."""
    theirs, ours = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=[theirs],
            start_new_session=True,
        )
        _die_with_us(theirs, group=process.pid)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def _die_with_us(lifeline: int, *, group: int) -> None:
    """Have the kernel kill a group when the other end of a pipe, which one of the group holds, closes."""
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -group)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None  # promised by PIPE
    os.set_blocking(end.fileno(), False)
    return end
