"""One run of an agent in a thread of its own, within its deadline: its outcome, or why there is none."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from llmrl.errors import EngineError, LlmrlError, shown
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.agents.agent import Agent

GRACE_S = 1.0
"""Seconds that an async agent, cancelled at its deadline, has to end before it is abandoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of an agent's run."""

    outcome: float | None = None
    reason: str = ""
    """Reason why it failed; empty if it did not."""


async def run_agent(agent: Agent, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> Ended:
    """Run it and wait; whatever it does, this returns soon after the deadline.

    It has a thread, because an agent may block; a daemon, because one that blocks cannot be ended.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended] = loop.create_future()

    def work() -> None:
        result = _ended(lambda: _outcome(agent, prompt, base_url=base_url, api_key=api_key, seed=seed))
        with suppress(RuntimeError):  # the run is over and its loop closed
            loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(result))

    threading.Thread(target=work, name=f"agent-{prompt.id}", daemon=True).start()
    try:
        async with asyncio.timeout(agent.deadline_s + GRACE_S):
            return await ended
    except TimeoutError:
        return Ended(reason=_late(agent))


def _ended(outcome: Callable[[], object]) -> Ended:
    """Turn an outcome, or whatever a plugin raises, sys.exit included, into an end."""
    try:
        return Ended(outcome=_number(outcome()))
    except LlmrlError as error:
        return Ended(reason=str(error))
    except BaseException as error:  # noqa: BLE001  the thread is the agent's, and its end is reported
        return Ended(reason=f"{type(error).__name__}: {error}")


def _number(value: object) -> float | None:
    if value is None:
        return None
    with suppress(OverflowError):  # raised for an integer that no float can hold
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    raise EngineError(f"run() returned {shown(value)}, which is neither a finite number nor None")


def _outcome(agent: Agent, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> object:
    result = agent.run(prompt, base_url=base_url, api_key=api_key, seed=seed)
    if not inspect.isawaitable(result):
        return result

    async def awaited() -> object:
        try:
            return await result
        except SystemExit as error:  # an event loop would print it and stop
            raise RuntimeError(f"SystemExit: {error}") from error

    async def within_deadline() -> object:
        done, _ = await asyncio.wait({asyncio.create_task(awaited())}, timeout=agent.deadline_s)
        if not done:
            raise TimeoutError(_late(agent))
        return done.pop().result()

    # On its way out, run() cancels what was not done.
    return asyncio.run(within_deadline())


def _late(agent: Agent) -> str:
    return f"it did not end within deadline_s = {agent.deadline_s:g}"
