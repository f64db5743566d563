"""Preparation of an environment, and its rehearsal on the machine that starts a run, before the run.

``python -m llmrl.rollouts.rehearsal`` is a process of its own, which takes along all that an environment
loads and starts: the run itself needs none of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress

from llmrl.errors import DataError, DeadlineError, LlmrlError, PluginError, RecipeError, RewardError
from llmrl.recipe.schema import Choice
from llmrl.registry import load_plugins
from llmrl.roles.asker import Asker
from llmrl.rollouts.environments import Environment, environment

_REFUSALS = {cls.__name__: cls for cls in (DataError, PluginError, RecipeError, RewardError)}
_LAST_WORDS = 2000
"""Characters quoted from a process's output before it died."""


def ready(chosen: Choice, *, door: str) -> Environment:
    """The environment of a stage, warmed up.

    Args:
        door: URL of the run's roles, for an environment that asks one.

    Raises:
        LlmrlError: the environment reports what it misses here.
        PluginError: it raised anything else; the message has its traceback.
    """
    built: Environment = environment.build(chosen.name, chosen.options, key="environment")
    if isinstance(built, Asker):
        built = built.at(door)
    try:
        built.warm_up()
    except LlmrlError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}.\n{traceback.format_exc()}"
        raise PluginError(f"environment: warm_up of '{chosen.name}' failed: {told}") from error
    return built


def rehearse(
    chosen: Choice, plugins: Sequence[str], *, door: str, variables: Mapping[str, str], deadline_s: float
) -> None:
    """Get the environment ready once, in another process that then ends.

    Args:
        chosen: the recipe's choice of environment.
        plugins: modules to import first.
        door: URL of the run's roles, as for ``ready``.
        variables: the environment variables of every process of the run.
        deadline_s: time limit for all of it.

    Raises:
        LlmrlError: as ``ready``, or it took too long or ended its process.
    """
    setup = json.dumps({"plugins": [*plugins], "environment": chosen.model_dump(), "door": door})
    command = [sys.executable, "-P", "-m", __name__]
    with subprocess.Popen(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as rehearsal:
        try:
            said, last_words = rehearsal.communicate(setup, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            late = f"was not ready within {deadline_s:g} s (cluster.start_deadline_s)."
            raise DeadlineError(f"environment: '{chosen.name}' {late}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(rehearsal.pid, signal.SIGKILL)  # and what it has started
    if rehearsal.returncode:
        raise PluginError(
            f"environment: warm_up of '{chosen.name}' ended its process with status {rehearsal.returncode}.\n"
            f"{last_words[-_LAST_WORDS:]}"
        )
    if refusal := json.loads(said):
        raise _REFUSALS.get(refusal["error"], PluginError)(refusal["message"])


def _rehearsed() -> dict[str, str]:
    """The refusal; empty if there is none."""
    setup = json.load(sys.stdin)
    try:
        load_plugins(setup["plugins"])
        ready(Choice(**setup["environment"]), door=setup["door"]).close()
    except LlmrlError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {}


if __name__ == "__main__":
    # An environment, and whatever it starts, may print: that goes where errors go.
    verdict = os.dup(1)
    os.dup2(2, 1)
    refusal = _rehearsed()
    with os.fdopen(verdict, "w", encoding="utf-8") as told:
        json.dump(refusal, told)
