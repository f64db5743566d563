"""One run of an agent in a thread of its own, within its deadline: what came of it, or why nothing did."""

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
"""An async agent is cancelled at its deadline; one that does not end then either is left to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run of an agent ended."""

    outcome: float | None = None
    reason: str = ""
    """Why it did not end well; empty if it did."""


async def run_agent(agent: Agent, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> Ended:
    """Run it and wait; whatever it does, this returns soon after the deadline.

    A thread, because an agent may block; a daemon, because nobody can end one that does.
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
    """What came of it; whatever a plugin raises is a reason, sys.exit included."""
    try:
        return Ended(outcome=_number(outcome()))
    except LlmrlError as error:
        return Ended(reason=str(error))
    except BaseException as error:  # noqa: BLE001  the thread is the agent's, and its end is what is told
        return Ended(reason=f"{type(error).__name__}: {error}")


def _number(value: object) -> float | None:
    if value is None:
        return None
    with suppress(OverflowError):  # of an integer that no float can hold
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
