"""Python: the output of a program that the policy wrote, in the sandbox of the rewards and never outside."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Literal

from llmrl.recipe.schema import AboveZero, Positive
from llmrl.rollouts.tool import Tool, ToolError, tool
from llmrl.sandbox import Jails, Limits, Run

OUTPUT_KIB = 64
_FENCE = re.compile(r"^\s*```[^\n`]*\n(.*?)(?:```\s*)?$", re.DOTALL)


@tool("python")
@dataclass(frozen=True, slots=True, kw_only=True)
class Python(Tool):
    """Runs each program from scratch: no call sees the names or files of another."""

    isolation: Literal["kernel", "process"] = "kernel"
    """Namespaces and seccomp; or seccomp and Landlock alone, where the machine allows no namespaces."""
    seconds: AboveZero = 5.0
    """Time limit of one program; keep it well below ``reply_deadline_s``, as programs wait for each other."""
    memory_mib: Positive = 512
    """Memory limit of one program."""
    at_once: Positive = 2
    """Programs that run concurrently in one engine's process."""

    def warm_up(self) -> None:
        """Start the sandboxes.

        Raises:
            RewardError: this machine allows none; the message names what is missing.
        """
        _cells(self.isolation, self.at_once).start()

    async def answer(self, question: str) -> str:
        fenced = _FENCE.match(question)
        limits = Limits(seconds=self.seconds, memory_mib=self.memory_mib, output_kib=OUTPUT_KIB)
        run = await _cells(self.isolation, self.at_once).run(fenced[1] if fenced else question, limits)
        if run.ending != "ended":
            raise ToolError(_failure(run, limits))
        return run.output.rstrip()

    def close(self) -> None:
        """End the sandboxes, which would end with their process anyway; the next program restarts them."""
        _cells(self.isolation, self.at_once).close()


class Cells:
    """Sandboxes, each with a thread of its own: the thread that starts one must outlive it."""

    def __init__(self, isolation: Literal["kernel", "process"], count: int) -> None:
        self._cells = [(ThreadPoolExecutor(1, "python"), Jails(isolation)) for _ in range(count)]
        self._turns = cycle(self._cells)

    def start(self) -> None:
        """Start every sandbox; does nothing if they are started."""
        for started in [thread.submit(jails.start) for thread, jails in self._cells]:
            started.result()

    async def run(self, program: str, limits: Limits) -> Run:
        """Run a program when those before it have ended."""
        thread, jails = next(self._turns)
        return await asyncio.wrap_future(thread.submit(jails.run, program, stdin="", limits=limits))

    def close(self) -> None:
        """End every sandbox."""
        for closed in [thread.submit(jails.close) for thread, jails in self._cells]:
            closed.result()


@cache
def _cells(isolation: Literal["kernel", "process"], count: int) -> Cells:
    """The sandboxes that all conversations of this process share."""
    return Cells(isolation, count)


def _failure(run: Run, limits: Limits) -> str:
    if run.ending == "late":
        return f"no end within {limits.seconds:g} s"
    if run.ending == "overflow":
        return f"more than {limits.output_kib} KiB of output"
    return run.errors.strip().rpartition("\n")[2] or "the program failed"
