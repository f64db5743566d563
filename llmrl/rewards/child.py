"""The process in which rewards run: ``python -m llmrl.rewards.child``, killed without mercy and replaced.

It reads JSON lines on stdin and answers on stdout. First the setup, answered by the names of the rewards that
read the gold answer; then one line for each sample, answered by one line for each of its parts, so that the
parent always knows which part is running.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from llmrl.errors import LlmrlError, PluginError
from llmrl.recipe.schema import Reward as RewardTable
from llmrl.registry import load_plugins
from llmrl.rewards.judgement import Sample
from llmrl.rewards.part import evaluate
from llmrl.rewards.reward import Formal, Heavy, Reward, build_rewards


def main() -> None:
    """Serve until stdin closes, then take along whatever the rewards have left running."""
    asks, replies = _take_pipes()
    _die_with_parent(lifeline=int(sys.argv[1]))
    _go_first()
    setup = json.loads(asks.readline())
    try:
        rewards = _prepare(setup)
    except LlmrlError as error:
        _reply(replies, {"error": type(error).__name__, "message": str(error)})
        return
    _limit_memory(setup["memory_mib"])
    gold = {name: _bare(reward) for name, reward in rewards.items() if reward.reads_answer}
    _reply(replies, {"reads_answer": list(gold)})
    _serve(asks, replies, {False: rewards, True: gold})
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _take_pipes() -> tuple[BinaryIO, int]:
    """The protocol on private descriptors, so that a reward that prints or reads cannot disturb it."""
    asks, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return asks, replies


def _die_with_parent(*, lifeline: int) -> None:
    """Have the kernel kill this group when the parent's end of a pipe closes, whatever a reward is doing."""
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _go_first() -> None:
    """When memory runs out, go before the parent does; and leave no core behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _prepare(setup: dict[str, Any]) -> dict[str, Reward]:
    load_plugins(setup["plugins"])
    rewards = build_rewards({name: RewardTable(**table) for name, table in setup["rewards"].items()})
    for name, reward in rewards.items():
        if isinstance(reward, Heavy):
            _warm_up(name, reward)
    return rewards


def _warm_up(name: str, reward: Heavy) -> None:
    try:
        reward.warm_up()
    except LlmrlError:
        raise  # a refused sandbox says itself what is missing
    except Exception as error:
        raise PluginError(f"rewards.{name}: warm_up failed: {error}.\n{traceback.format_exc()}") from error


def _limit_memory(mib: int | None) -> None:
    """Have the kernel refuse address space beyond what is in use now and ``mib``; only Linux can."""
    if mib is None or sys.platform != "linux":
        return
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = held + mib * 2**20
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _bare(reward: Reward) -> Reward:
    return reward.bare() if isinstance(reward, Formal) else reward


def _serve(asks: BinaryIO, replies: int, choices: Mapping[bool, Mapping[str, Reward]]) -> None:
    own = os.getpid()
    for line in asks:
        ask = json.loads(line)
        sample = Sample(**ask["sample"])
        for reward in choices[ask["gold"]].values():
            part = evaluate(reward, sample)
            if os.getpid() != own:
                os._exit(0)  # a reward forked and returned twice: only the original answers
            _reply(replies, [part.status, part.value, part.note, part.seconds])


def _reply(replies: int, message: object) -> None:
    os.write(replies, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
