"""The processes of a program that is an agent: those at work, and those that wait for another row."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llmrl.rollouts.agents.process import AgentProcess


@dataclass(slots=True, eq=False)
class Staff:
    """A pool for any number of threads, each with one process at a time."""

    _busy: set[AgentProcess] = field(default_factory=set[AgentProcess])
    _idle: list[AgentProcess] = field(default_factory=list[AgentProcess])

    @contextmanager
    def one(self, start: Callable[[], AgentProcess]) -> Generator[AgentProcess]:
        """An idle process, or else a new one; it is kept if it can take another row afterwards."""
        process = self._waiting() or start()
        self._busy.add(process)
        try:
            yield process
        finally:
            self._busy.discard(process)
            if process.ready:
                self._idle.append(process)
            else:
                process.close()

    def close(self) -> None:
        """End all processes; a thread that asks one gets an error."""
        for process in [*self._busy]:
            process.end()
        while self._idle:
            self._idle.pop().close()

    def _waiting(self) -> AgentProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.ready:
                return process
            process.close()
        return None
