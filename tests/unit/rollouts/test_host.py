"""Environments that hang: their conversations are aborted, with the reason, and everything else goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llmrl.errors import DeadlineError
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.rewards.judgement import Judgement
from llmrl.rewards.scoring.aborted import overrule
from llmrl.rollouts.conversations.branches import converse
from llmrl.rollouts.conversations.conversation import Conversation
from llmrl.rollouts.conversations.exchange import Limits
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.engines import Completion, Request
from llmrl.rollouts.environment import Environment, Reply, Turn
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.seat import Seat

DEADLINE_S = 0.3


async def wait() -> None:
    await asyncio.sleep(60)


async def block() -> None:
    time.sleep(3)


async def give_up() -> None:
    raise DeadlineError("the server did not answer")


async def nothing() -> None:
    """At once."""


@dataclass(slots=True, kw_only=True)
class Two:
    """An engine that says ``2`` and ends its turn."""

    async def generate(self, request: Request) -> Completion:
        return Completion(
            tokens=np.array([5, 2], np.int32),
            logp=np.array([-1, -1], np.float32),
            version=np.array([3, 3], np.int32),
            stop="stop",
        )

    async def score(self, tokens: object) -> np.ndarray:
        return np.zeros(1, np.float32)

    async def join(self, seat: Seat) -> None:
        """Nobody to join."""

    async def load(self, bundle: WeightBundle) -> None:
        """Nothing to load."""

    async def sleep(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Environment):
    """Does ``what`` before the second reply of the first of every ``every`` conversations."""

    what: Callable[[], Awaitable[None]]
    every: int
    begun: list[int]
    reply_deadline_s: float = DEADLINE_S

    def start(self, prompt: Prompt, *, seed: int) -> SlowEpisode:
        self.begun.append(len(self.begun))
        return SlowEpisode(what=self.what if self.begun[-1] % self.every == 0 else nothing)


@dataclass(slots=True, kw_only=True)
class SlowEpisode:
    what: Callable[[], Awaitable[None]]
    turns: int = 0

    async def reply(self, turn: Turn) -> Reply:
        self.turns += 1
        if self.turns == 2:
            await self.what()
        return Reply(text="1", over=self.turns == 3, outcome=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverBegins(Environment):
    """Blocks before the first word."""

    reply_deadline_s: float = DEADLINE_S

    def start(self, prompt: Prompt, *, seed: int) -> SlowEpisode:
        time.sleep(3)
        return SlowEpisode(what=nothing)


def held(
    tokenizer: Tokenizer, environment: Environment, *, per_prompt: int, branches: int = 1
) -> tuple[list[Rollout], float]:
    """The conversations, and how long they took in seconds."""
    prompt = Prompt(id="p", tokens=np.array([1], np.int32), text="", answer=None, source="p")
    host = Host()
    conversation = Conversation(
        engine=Two(),
        tokenizer=tokenizer,
        environment=environment,
        host=host,
        prompt=prompt,
        name="train-0",
        order=0,
        seeds=(0,),
        limits=Limits(spoken=40, context=100),
        temperature=1.0,
    )
    began = time.monotonic()
    rollouts = asyncio.run(converse(conversation, per_prompt=per_prompt, branches=branches))
    host.close()
    return list(rollouts), time.monotonic() - began


@pytest.mark.parametrize("what", [wait, give_up])
def test_one_conversation_that_is_late_is_aborted_and_the_others_end(
    digits: Tokenizer, what: Callable[[], Awaitable[None]]
) -> None:
    rollouts, seconds = held(digits, Slow(what=what, every=8, begun=[]), per_prompt=8)

    late = [rollout for rollout in rollouts if rollout.stop == "abort"]
    reason = f"no reply within {DEADLINE_S} s" if what is wait else "the server did not answer"
    assert [rollout.abort for rollout in late] == [f"environment Slow: {reason}"]
    assert {(r.stop, r.outcome, r.abort) for r in rollouts if r not in late} == {("stop", 1.0, "")}
    # What was said until then stays on record, sampled with weights 3.
    assert (late[0].tokens.size, set(late[0].version.tolist()), late[0].outcome) == (5, {3}, None)
    assert seconds < DEADLINE_S + 5


def test_an_environment_that_blocks_its_thread_costs_its_deadline_and_no_later_conversation(
    digits: Tokenizer,
) -> None:
    environment = Slow(what=block, every=1000, begun=[])

    first, seconds = held(digits, environment, per_prompt=8)
    second, _ = held(digits, environment, per_prompt=8)

    assert "abort" in {rollout.stop for rollout in first}
    assert {rollout.stop for rollout in second} == {"stop"}
    assert seconds < 2.5


def test_one_host_goes_on_in_another_thread_when_its_own_is_blocked() -> None:
    async def thread() -> str:
        return f"{threading.get_ident()}"

    async def meet() -> tuple[str, str, str]:
        host = Host()
        before = await host.run(thread(), deadline_s=5), await host.run(thread(), deadline_s=5)
        with pytest.raises(DeadlineError, match=r"no reply within 0\.1 s"):
            await host.run(wait(), deadline_s=0.1)
        assert await host.run(thread(), deadline_s=5) == before[0]
        with pytest.raises(DeadlineError):
            await host.run(block(), deadline_s=0.1)
        after = await host.run(thread(), deadline_s=5)
        host.close()
        return *before, after

    first, second, third = asyncio.run(meet())

    assert first == second != third
    assert first != f"{threading.get_ident()}"


def test_who_was_asked_of_a_thread_that_was_left_behind_is_late_and_not_cancelled() -> None:
    released = threading.Event()

    async def blocked() -> None:
        released.wait(60)

    async def meet() -> str:
        host = Host()
        blocking = asyncio.create_task(host.run(blocked(), deadline_s=0.1))
        asking = asyncio.create_task(host.run(wait(), deadline_s=30))
        with pytest.raises(DeadlineError, match="no reply within"):
            await blocking  # and with it the thread is given up, which is blocked still
        released.set()
        with pytest.raises(DeadlineError) as late:
            await asking
        host.close()
        return str(late.value)

    assert asyncio.run(meet()) == "another reply blocked the thread of environments"


def test_a_world_that_never_begins_aborts_after_the_first_turn(digits: Tokenizer) -> None:
    rollouts, _ = held(digits, NeverBegins(), per_prompt=4, branches=2)

    assert [(r.stop, r.tokens.tolist(), r.turn.tolist()) for r in rollouts] == [("abort", [5, 2], [0, 0])] * 4


def test_an_aborted_response_is_an_error_whatever_was_said_of_it(bpe: PreTrainedTokenizerFast) -> None:
    tokenizer = Tokenizer(bpe, chat=False)
    rollouts, _ = held(tokenizer, Slow(what=give_up, every=2, begun=[]), per_prompt=2)
    prompt = Prompt(id="p", tokens=np.array([1], np.int32), text="", answer=None, source="p")
    group = RolloutGroup(ordinal=0, prompt=prompt, rollouts=tuple(rollouts))
    zero = Judgement(status="score", reward=0.0, parts={"right": 0.0}, seconds=0.5)

    judged = dict(zip([r.stop for r in rollouts], overrule(group, [zero, zero]), strict=True))

    assert judged["stop"] is zero
    assert judged["abort"] == Judgement(
        status="error",
        reward=None,
        note="aborted: environment Slow: the server did not answer",
        seconds=0.5,
    )
