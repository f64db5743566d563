"""A process for rewards: ``python -m llmrl.rewards.scoring.child``, killed without mercy and replaced.

It reads JSON lines on stdin and answers on stdout. First the setup, answered by the names of the rewards that
read the gold answer, and of those that are awaited. Then a line for each sample, or where rewards are awaited
one for all, answered by one line for each part, so that the parent always knows which parts are under way.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from llmrl.errors import LlmrlError, PluginError, RecipeError
from llmrl.recipe.schema import Reward as RewardTable
from llmrl.registry import load_plugins
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Changing, Formal, Heavy, Reward, build_rewards, is_awaited, layers_of
from llmrl.rewards.scoring.part import Part, evaluate, evaluate_awaited
from llmrl.roles.asker import Asker


def main() -> None:
    """Serve until stdin closes, then end all that the rewards have left running."""
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
    layers = {name: list(layers_of(reward)) for name, reward in rewards.items()}
    gold = {name: _bare(one) for name, listed in layers.items() for one in listed if _grades_gold(one)}
    awaited = [[name for name, one in judges.items() if is_awaited(one)] for judges in (rewards, gold)]
    _reply(replies, {"reads_answer": list(gold), "awaited": awaited})
    _Desk(replies, {False: list(rewards.values()), True: list(gold.values())}).serve(asks)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _take_pipes() -> tuple[BinaryIO, int]:
    """Move the protocol to private descriptors, so that a reward that prints or reads cannot disturb it."""
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
    """Be killed before the parent when memory runs out, and leave no core behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _prepare(setup: dict[str, Any]) -> dict[str, Reward]:
    load_plugins(setup["plugins"])
    built = build_rewards({name: RewardTable(**table) for name, table in setup["rewards"].items()})
    rewards = {name: one.at(setup["door"]) if isinstance(one, Asker) else one for name, one in built.items()}
    for name, reward in rewards.items():
        for layer in layers_of(reward):
            _make_ready(name, layer, cached=bool(setup["cache"]))
    return rewards


def _make_ready(name: str, reward: Reward, *, cached: bool) -> None:
    if cached and isinstance(reward, Changing):
        raise RecipeError(
            f"scoring.cache: rewards.{name} may score the same sample otherwise the next time "
            f"(changes = True), so its scores cannot be kept; set scoring.cache = 0."
        )
    if isinstance(reward, Heavy):
        _warm_up(name, reward)


def _warm_up(name: str, reward: Heavy) -> None:
    try:
        reward.warm_up()
    except LlmrlError:
        raise  # a refused sandbox reports what is missing itself
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


def _grades_gold(reward: Reward) -> bool:
    """Whether a reward grades gold answers; not if it asks a model, which is not started and may not know."""
    return reward.reads_answer and not isinstance(reward, Asker)


def _bare(reward: Reward) -> Reward:
    return reward.bare() if isinstance(reward, Formal) else reward


@dataclass(frozen=True, slots=True)
class _Desk:
    """The exchange of samples and verdicts with the parent."""

    replies: int
    rewards: dict[bool, list[Reward]]
    """All rewards, and under True those that grade gold answers."""
    own: int = field(default_factory=os.getpid)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    """Event loop that lives as long as the process, so that a reward may keep its connections."""

    def serve(self, asks: BinaryIO) -> None:
        for line in asks:
            ask = json.loads(line)
            rewards = self.rewards[ask["gold"]]
            if "samples" in ask:
                self.loop.run_until_complete(self._judge_together(rewards, ask))
            else:
                self._judge(rewards, ask["at"], Sample(**ask["sample"]))

    def _judge(self, rewards: Sequence[Reward], at: int, sample: Sample) -> None:
        for reward in rewards:
            if not is_awaited(reward):
                self._answer(at, evaluate(reward, sample))

    async def _judge_together(self, rewards: Sequence[Reward], ask: dict[str, Any]) -> None:
        samples: list[dict[str, Any]] = ask["samples"]
        waiting = iter(enumerate(samples))

        async def take_turns() -> None:
            for at, sample in waiting:  # one iterator for all: each task that is done takes the next
                await self._judge_awaited(rewards, at, Sample(**sample), ask["deadline_s"])

        await asyncio.gather(*(take_turns() for _ in range(ask["at_once"])))

    async def _judge_awaited(self, rewards: Sequence[Reward], at: int, sample: Sample, within: float) -> None:
        due = time.perf_counter() + within
        for reward in rewards:
            if is_awaited(reward):
                left = due - time.perf_counter()
                self._answer(at, await evaluate_awaited(reward, sample, seconds=left, deadline_s=within))

    def _answer(self, at: int, part: Part) -> None:
        if os.getpid() != self.own:
            os._exit(0)  # a reward forked and returned twice: only the original answers
        _reply(self.replies, [at, part.status, part.value, part.note, part.seconds])


def _reply(replies: int, message: object) -> None:
    os.write(replies, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
