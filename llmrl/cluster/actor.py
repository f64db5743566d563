"""From a plain class to a process somewhere in the cluster, and calls to it that always end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import ray
from ray import exceptions
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from llmrl.errors import DeadlineError, DeadProcessError, EngineError, LlmrlError, WeightSyncError

LOG_LINES = 25
"""Lines of a process's log that an error quotes."""

DEADLINES = "cluster.call_deadline_s, or cluster.start_deadline_s while processes start"

ECHO_S = 5.0
"""Seconds after a failure in which another process may be found dead."""

UNREACHED = (
    exceptions.ActorUnavailableError,
    exceptions.ObjectLostError,
    exceptions.ObjectFetchTimedOutError,
    exceptions.PendingCallsLimitExceeded,
)
"""Messages of Ray about a process that may still be alive."""

MAX_OVERLAP = 10_000
"""Calls to one asynchronous process that may be under way at once."""

_log = logging.getLogger(__name__)


class Pending:
    """The result of a call under way. Passed to another actor's call, it travels there directly."""

    def __init__(self, ref: ray.ObjectRef[Any], what: str, log: Path | None = None) -> None:
        self.ref, self._what, self._log = ref, what, log

    async def result(self, *, deadline_s: float) -> Any:
        """The value, fetched into this process.

        Raises:
            DeadlineError: no answer in time; the message names the process and the call.
            DeadProcessError: its process died, or its machine did.
            LlmrlError: what the call itself raised.
        """
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.wrap_future(self.ref.future())
        except exceptions.RayTaskError as error:  # also an instance of its cause, which may be a TimeoutError
            raise _own_error(error, self._what, self._last_words()) from error
        except TimeoutError:
            late = (
                f"{self._what} did not answer within {deadline_s:.4g} s ({DEADLINES}); is its process stuck?"
            )
            raise DeadlineError(f"{late}{self._last_words()}") from None
        except UNREACHED as error:
            raise LlmrlError(f"{self._what} could not be reached: {error}{self._last_words()}") from error
        except exceptions.RayError as error:  # also of memory that ran out, and of machines that went away
            dead = f"{self._what} failed because its process died: {error}"
            raise DeadProcessError(f"{dead}{self._last_words()}") from error

    def _last_words(self) -> str:
        """The end of the process's log, which is likely to show the cause of what Ray only reports."""
        if self._log is None or not self._log.exists():
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return "".join(f"\n    {line}" for line in [f"the end of {self._log}:", *lines])


class Actor:
    """A handle on one process that runs one plain object."""

    def __init__(self, handle: Any, name: str, log: Path) -> None:
        self._handle, self.name, self._log = handle, name, log

    def send(self, method: str, *args: Any) -> Pending:
        """Start a call; pending results among ``args`` are passed on without passing through this process.

        Raises:
            DeadProcessError: the cluster is gone; Ray would start another one.
        """
        if not ray.is_initialized():
            raise DeadProcessError(f"{self.name}.{method} was called when its cluster was gone")
        plain = [arg.ref if isinstance(arg, Pending) else arg for arg in args]
        return Pending(self._handle.call.remote(method, *plain), f"{self.name}.{method}", self._log)

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        """Start a call and wait for its value."""
        return await self.send(method, *args).result(deadline_s=deadline_s)

    def kill(self) -> None:
        """End the process at once."""
        ray.kill(self._handle, no_restart=True)


async def gathered(pending: Sequence[Pending], *, deadline_s: float) -> list[Any]:
    """All results, or the first failure.

    If a process dies, those that compute with it fail too, perhaps first: wait ``ECHO_S`` before reporting a
    failure, so that a dead process is blamed before its victims.
    """
    calls = [asyncio.ensure_future(one.result(deadline_s=deadline_s)) for one in pending]
    try:
        return list(await asyncio.gather(*calls))
    except DeadProcessError:
        raise
    except LlmrlError:
        ended, _ = await asyncio.wait(calls, timeout=ECHO_S)
        for error in (one.exception() for one in ended):
            if isinstance(error, DeadProcessError):
                raise error from error.__cause__
        raise
    finally:
        for one in calls:
            one.cancel()


async def attempted(actors: Sequence[Actor], method: str, *, deadline_s: float) -> None:
    """Call all of them; log a failure and continue."""
    calls = [one.call(method, deadline_s=deadline_s) for one in actors]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, Exception):
            _log.warning("%s", outcome)


def share(value: Any) -> Pending:
    """Put a value into the object store once, to be given to many calls."""
    return Pending(ray.put(value), "a shared value")


def spawn(
    path: str,
    *args: Any,
    name: str,
    group: PlacementGroup,
    bundle: int,
    resources: dict[str, float],
    env: dict[str, str],
    is_async: bool,
    log: Path,
) -> Actor:
    """Make an object of the class at ``path`` in a process of its own; only the path travels there.

    Args:
        path: ``module:Class``; a plain class whose public methods are what ``Actor.call`` can call.
        args: for its constructor.
        name: the process's name in messages.
        group: the run's placement group.
        bundle: index of the process's bundle in it.
        resources: ``CPU`` and ``GPU`` of that bundle.
        env: environment variables of the process, set before anything is imported.
        log: file on its own machine for the output of the process and of what it starts.
        is_async: its methods are coroutines and overlap; otherwise calls run one after the other.
    """
    remote: Any = ray.remote(_AsyncHost if is_async else _Host)
    handle = remote.options(
        num_cpus=resources.get("CPU", 0),
        num_gpus=resources.get("GPU", 0),
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=MAX_OVERLAP if is_async else 1,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        runtime_env={"env_vars": env},
    ).remote(path, args, log.absolute())
    return Actor(handle, name, log)


class _Host:
    """Runs inside the process: imports the class, holds the object, forwards calls."""

    def __init__(self, path: str, args: tuple[Any, ...], log: Path) -> None:
        _write_to(log)
        self._object = resolve_name(path)(*args)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._object, method)(*args)


class _AsyncHost(_Host):
    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._object, method)(*args)


def _write_to(log: Path) -> None:
    """Send the output of this process, and of every process that it starts, to a file of the run."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _own_error(error: exceptions.RayTaskError, what: str, last_words: str) -> LlmrlError:
    cause = error.cause
    if isinstance(cause, EngineError | WeightSyncError):
        return type(cause)(f"{what}: {cause}{last_words}")
    if isinstance(cause, LlmrlError):
        return type(cause)(f"{what}: {cause}")
    return LlmrlError(f"{what} failed:\n{error}")
