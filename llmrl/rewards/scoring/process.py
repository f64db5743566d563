"""The parent's end of one reward process: ask, watch the clock, kill, reap."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmrl.errors import DeadlineError, PluginError, RecipeError, RewardError, shown
from llmrl.rewards.scoring.part import Part

_EXIT_S = 5.0
"""Seconds for a killed process to go, which takes milliseconds; one that does not is given up."""
_DRAIN_S = 0.2
"""Seconds for the last lines of a process that exited; only a descendant outside its group takes longer."""
_STALL_S = 0.25
"""Delay of a timer from which on our own loop stood still, and the child may have lacked its input."""
_GRACE_S = 0.5
"""Seconds for a child to cancel an awaited reward at its deadline, before it is killed."""
_LAST_WORDS = 300
_STDERR = 2
_SETUP_ERRORS = {"PluginError": PluginError, "RecipeError": RecipeError}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms on which the samples of one request are judged."""

    width: int
    """Number of rewards that judge each sample."""
    gold: bool
    """Whether only the rewards that read the answer judge, bare."""
    at_once: int | None
    """Number of samples that awaited rewards judge at once; None for the others, which take one at a time."""
    deadline_s: float
    """Deadline for each sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one request."""

    finished: Mapping[int, tuple[Part, ...]]
    """Parts of each finished sample, by its index in the request."""
    failure: str = ""
    """Reason why the process ended too early; empty if it answered everything."""
    underway: Mapping[int, Underway]
    """Samples that were lost with a failed process, at least one."""
    now: float
    """Time on the loop's clock."""


@dataclass(slots=True)
class Underway:
    """A sample that is being judged."""

    since: float
    """Start of its judgement, on the loop's clock."""
    parts: list[Part] = field(default_factory=list[Part])
    """Finished parts of the sample."""
    excused: bool = False
    """Whether it was given its time again, because our own loop stood still."""


@dataclass(slots=True, kw_only=True)
class _Ask:
    """A request being answered. The child begins the next sample when it has finished one, in order."""

    samples: int
    terms: Terms
    answered: asyncio.Future[None]
    underway: dict[int, Underway] = field(default_factory=dict[int, Underway])
    finished: dict[int, tuple[Part, ...]] = field(default_factory=dict[int, tuple[Part, ...]])

    def begin(self, now: float) -> None:
        for at in range(min(self.samples, self.terms.at_once or 1)):
            self.underway[at] = Underway(now)

    def take(self, at: int, part: Part, now: float) -> None:
        """Record a finished part; raises KeyError if that sample is not under way."""
        self.underway[at].parts.append(part)
        if len(self.underway[at].parts) < self.terms.width:
            return
        following = len(self.finished) + len(self.underway)
        self.finished[at] = tuple(self.underway.pop(at).parts)
        if following < self.samples:
            self.underway[following] = Underway(now)
        if not self.underway:
            self.answered.set_result(None)

    @property
    def patience_s(self) -> float:
        """Seconds until a kill: a child cancels awaited rewards itself, and is only killed if it cannot."""
        return self.terms.deadline_s + (0.0 if self.terms.at_once is None else _GRACE_S)

    def due(self) -> float:
        """Time by which the first sample under way must be finished."""
        return min(each.since for each in self.underway.values()) + self.patience_s

    def excuse(self, now: float) -> bool:
        """Give all samples not yet excused their time again; False if there is none."""
        guilty = [each for each in self.underway.values() if not each.excused]
        for each in guilty:
            each.since, each.excused = now, True
        return bool(guilty)


class RewardProcess(asyncio.SubprocessProtocol):
    """A child in its own process group. It serves one request at a time, and ends at its first fault."""

    def __init__(self, *, lifeline: int) -> None:
        self.reads_answer: tuple[str, ...] = ()
        """Names of the rewards that read the gold answer."""
        self.awaited: Mapping[bool, frozenset[str]] = {}
        """Names of the awaited rewards; under True those that grade gold answers."""
        self.pid = 0
        """Process id, which is also its group's."""
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._lifeline = lifeline
        self._transport: asyncio.SubprocessTransport | None = None
        self._ask: _Ask | None = None
        self._unread = b""
        self._stderr = b""
        self._failure = ""

    @classmethod
    async def start(cls, setup: bytes, *, variables: Mapping[str, str], deadline_s: float) -> RewardProcess:
        """Start a process that imports its plugins and builds its rewards.

        Args:
            setup: what it reads first.
            variables: environment variables besides this process's own.
            deadline_s: time limit until it is ready.

        Raises:
            PluginError: a plugin cannot be imported there.
            RecipeError: a reward or an option does not exist.
            RewardError: it died first.
            DeadlineError: it is not ready in time.
        """
        # It can import what its parent can import, and nothing from the folder that it happens to start in.
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, **variables, "PYTHONPATH": path}
        theirs, ours = os.pipe()
        process = cls(lifeline=ours)
        command = [sys.executable, "-P", "-m", "llmrl.rewards.scoring.child", str(theirs)]
        try:
            await process._loop.subprocess_exec(
                lambda: process, *command, env=environment, pass_fds=[theirs], start_new_session=True
            )
        finally:
            os.close(theirs)
        try:
            await process._get_ready(setup, deadline_s)
        except BaseException:
            await process.end()
            raise
        return process

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._failure

    async def ask(self, samples: Sequence[bytes], terms: Terms) -> Outcome:
        """Have samples judged, each as JSON; returns when they are or the process is gone."""
        ask = _Ask(samples=len(samples), terms=terms, answered=self._loop.create_future())
        ask.begin(self._loop.time())
        self._ask = ask
        self._write(_question(samples, terms))
        clock = self._loop.create_task(self._watch(ask))
        try:
            await asyncio.wait([ask.answered, self._gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ask = None
            clock.cancel()
            if not ask.answered.done():
                self._fail("was stopped")  # cancelled: its answers must not reach the next ask
        failure = "" if ask.answered.done() else self._failure
        return Outcome(finished=ask.finished, failure=failure, underway=ask.underway, now=self._loop.time())

    async def end(self) -> None:
        """Kill the process and its group, and wait until it is gone."""
        self._fail("was stopped")
        await asyncio.shield(self._gone)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # promised by subprocess_exec
        self._transport, self.pid = transport, transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._stderr = (self._stderr + data)[-_LAST_WORDS:]
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        try:
            for line in lines:
                self._take(json.loads(line))
        except (ValueError, TypeError, KeyError):
            self._fail("wrote into the pipe of its verdicts and was killed")

    def process_exited(self) -> None:
        self._fail(self._death())
        self._loop.call_later(_DRAIN_S, self._bury)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the name and the argument are asyncio's
        self._bury()

    async def _get_ready(self, setup: bytes, deadline_s: float) -> None:
        self._write(setup)
        events = [self._ready, self._gone]
        await asyncio.wait(events, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done() and not self._ready.done():
            raise RewardError(f"rewards: a reward process {self._failure} before it was ready.")
        if not self._ready.done():
            raise DeadlineError(
                f"rewards: a reward process was not ready within {deadline_s:g} s "
                "(cluster.start_deadline_s); a plugin or a reward's warm_up takes too long."
            )
        ready = self._ready.result()
        if "error" in ready:
            raise _SETUP_ERRORS.get(ready["error"], RewardError)(ready["message"])
        self.reads_answer = tuple(ready["reads_answer"])
        self.awaited = dict(zip((False, True), map(frozenset[str], ready["awaited"]), strict=True))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None  # promised by subprocess_exec
        pipe = self._transport.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)
        pipe.write(data)

    def _take(self, message: Any) -> None:
        if not self._ready.done():
            self._ready.set_result(message)
        elif not self._failure:
            if self._ask is None or self._ask.answered.done():
                raise ValueError("nobody asked")
            at, status, value, note, seconds = message
            self._ask.take(
                at, Part(status=status, value=value, note=note, seconds=seconds), self._loop.time()
            )

    async def _watch(self, ask: _Ask) -> None:
        """Kill the process when one sample has been running for too long."""
        while ask.underway and not self._failure:
            due = ask.due()
            await asyncio.sleep(due - self._loop.time())
            now = self._loop.time()
            if not ask.underway or now < ask.due() or (now - due > _STALL_S and ask.excuse(now)):
                continue
            self._fail(
                f"gave no verdict within {ask.terms.deadline_s:g} s (scoring.deadline_s) and was killed"
            )

    def _fail(self, reason: str) -> None:
        """End this process for a reason; the first reason stays."""
        if self._gone.done():
            return
        if not self._failure:
            self._failure = reason
            self._loop.call_later(_EXIT_S, self._bury)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _bury(self) -> None:
        assert self._transport is not None  # promised by subprocess_exec
        if not self._gone.done():
            self._transport.close()
            os.close(self._lifeline)
            self._gone.set_result(None)

    def _death(self) -> str:
        assert self._transport is not None  # promised by subprocess_exec
        status = self._transport.get_returncode() or 0
        how = f"died with {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        words = self._stderr.decode(errors="replace").strip()
        return f"{how}; its last words: {shown(words[-_LAST_WORDS:], _LAST_WORDS)}" if words else how


def _question(samples: Sequence[bytes], terms: Terms) -> bytes:
    """The lines that the child reads."""
    gold = b"true" if terms.gold else b"false"
    if terms.at_once is None:
        return b"".join(b'{"gold":%s,"at":%d,"sample":%s}\n' % (gold, *each) for each in enumerate(samples))
    how = json.dumps({"at_once": terms.at_once, "deadline_s": terms.deadline_s}).encode()
    return b'{"gold":%s,"samples":[%s],%s\n' % (gold, b",".join(samples), how[1:])
