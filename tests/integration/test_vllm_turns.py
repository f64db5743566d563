"""Turns on vLLM itself, with an environment and through the endpoint: ids, logprobs, versions."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from numpy.typing import NDArray
from openai import OpenAI
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.environments import Environment, Reply, Turn
from llmrl.rollouts.environments.running_sum import RunningSum
from llmrl.rollouts.responder import AgentRuns, Conversations
from llmrl.rollouts.rollout import Rollout
from llmrl.rollouts.worker import RolloutWorker
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.store import MemoryStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENTS = Path(__file__).parents[2] / "recipes" / "agents"
TEMPERATURE = 0.7
SAMPLING = Sampling(purpose="train", per_prompt=4, temperature=TEMPERATURE, max_tokens=40)


@pytest.fixture(scope="module")
def stage(tiny_model: Path) -> Stage:
    sums = Choice(name="sums_by_openai", options={"turns": 3, "max_turn_tokens": 6})
    return Stage(
        model=Model(path=str(tiny_model), context_tokens=256),
        prompts=Prompts(sources=(Source(task="running_sum", rows=50),)),
        rollouts=Rollouts(temperature=TEMPERATURE, max_tokens=40),
        engines=Engines(kind="vllm", max_sequences=16, kv_cache_mib=64),
        environment=sums,
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stage: Stage) -> AsyncIterator[RolloutWorker]:
    """One engine for all; its own environment is an agent, so its endpoint listens."""
    sys.path.insert(0, str(AGENTS))
    worker = RolloutWorker(stage, "cpu", 0, ["sums_by_openai"])
    await worker.start()
    yield worker
    await worker.close()
    sys.path.remove(str(AGENTS))


def agent_runs(worker: RolloutWorker) -> AgentRuns:
    """What the worker makes its responses with."""
    assert isinstance(worker._respond, AgentRuns)
    return worker._respond


def untold(_number: int, _rollout: Rollout) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def draws(stage: Stage) -> list[Draw]:
    stream = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0)
    return [stream.at(ordinal) for ordinal in range(3)]


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> list[PreTrainedModel]:
    """The first weights, and those of version 1: all of them a quarter larger."""
    first, second = (
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval() for _ in range(2)
    )
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.25)
    return [first, second]


@torch.no_grad()
def logp_of(model: PreTrainedModel, tokens: NDArray[np.int32], temperature: float) -> NDArray[np.float32]:
    """[L - 1] nats of each token but the first, in one pass over all of them."""
    ids = torch.as_tensor(tokens, dtype=torch.long)[None]
    logp = (model(input_ids=ids).logits[0, :-1] / temperature).log_softmax(-1)
    return logp.gather(-1, ids[0, 1:, None])[:, 0].numpy()


def sent(model: PreTrainedModel, outbox: Outbox, *, version: int) -> WeightBundle:
    tokens = np.arange(3, 11, dtype=np.int32)
    probe = Probe(tokens=tokens, logp=np.append(np.float32(0), logp_of(model, tokens, 1.0)))
    bucket: Tensors = [(name, "whole", tensor) for name, tensor in model.named_parameters()]
    return outbox.send([bucket], version=version, probe=probe)


def check(rollout: Rollout, prompt: Prompt, models: Sequence[PreTrainedModel]) -> None:
    """Each trained token has the logprob that the model of its version gives it, in its own segment."""
    of_version: list[NDArray[np.float32]] = []
    for model in models:
        pieces = [
            logp_of(model, np.concatenate([context, rollout.tokens[here]]), TEMPERATURE)[context.size - 1 :]
            for context, here in rollout.segments(prompt.tokens)
        ]
        of_version.append(np.concatenate(pieces))
    expected = np.where(rollout.version == 0, of_version[0], of_version[1])
    np.testing.assert_allclose(rollout.logp[rollout.trained], expected[rollout.trained], atol=1e-5)
    assert not rollout.logp[~rollout.trained].any()


def versions_by_turn(rollout: Rollout) -> dict[int, set[int]]:
    return {
        int(turn): set(rollout.version[rollout.trained & (rollout.turn == turn)].tolist())
        for turn in np.unique(rollout.turn)
    }


async def test_an_agent_gets_the_conversations_that_an_environment_with_its_words_gets(
    worker: RolloutWorker, draws: Sequence[Draw], models: Sequence[PreTrainedModel]
) -> None:
    sums, runs, host = RunningSum(turns=3, max_turn_tokens=6), agent_runs(worker), Host()

    spoken = [
        await Conversations(setting=runs.setting, environment=sums, host=host)(draw, SAMPLING, untold)
        for draw in draws
    ]
    groups = await asyncio.gather(*(worker.generate(draw, SAMPLING) for draw in draws))

    host.close()
    for group, expected in zip(groups, spoken, strict=True):
        for one, same in zip(group.rollouts, expected.rollouts, strict=True):
            assert one.tokens.tolist() == same.tokens.tolist()
            assert one.trained.tolist() == same.trained.tolist()
            assert one.outcome == same.outcome
            assert versions_by_turn(one) == {0: {0}, 1: {0}, 2: {0}}
            check(one, group.prompt, models)
            check(same, group.prompt, models)
        assert group.prompt.tokens.tolist() == draws[group.ordinal].prompt.tokens.tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetful(Agent):
    """Begins anew after every answer, with a question that it makes of it."""

    max_turn_tokens: int | None = 6
    deadline_s: float = 120.0

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        text = prompt.text
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            for number in range(3):
                said = client.completions.create(model="policy", prompt=text).choices[0].text
                text = f"{number}+{sum(map(ord, said)) % 10}="
        return 1.0


async def test_what_is_said_after_a_history_was_dropped_has_the_logprobs_of_what_is_left_of_it(
    worker: RolloutWorker, draws: Sequence[Draw], models: Sequence[PreTrainedModel]
) -> None:
    group = await replace(agent_runs(worker), agent=Forgetful())(draws[0], SAMPLING, untold)

    assert [len(rollout.rewrites) for rollout in group.rollouts] == [2] * 4
    for rollout in group.rollouts:
        check(rollout, group.prompt, models)


@dataclass(slots=True, kw_only=True)
class Pause:
    """Everybody stops here until somebody lets them go on."""

    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    over: threading.Event = field(default_factory=threading.Event)

    def here(self) -> None:
        self.waiting.release()
        assert self.over.wait(60)

    async def of(self, count: int) -> None:
        """Wait until so many have come."""
        for _ in range(count):
            assert await asyncio.to_thread(self.waiting.acquire, timeout=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thoughtful(Environment):
    """Says +1= twice, the first time after a pause."""

    pause: Pause
    max_turn_tokens: int | None = 6

    def start(self, prompt: Prompt, *, seed: int) -> ThoughtfulEpisode:
        return ThoughtfulEpisode(pause=self.pause)


@dataclass(slots=True, kw_only=True)
class ThoughtfulEpisode:
    pause: Pause
    heard: int = 0

    async def reply(self, turn: Turn) -> Reply:
        self.heard += 1
        if self.heard == 1:
            await asyncio.to_thread(self.pause.here)
        return Reply(text="+1=", over=self.heard == 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtfulAgent(Agent):
    """The same words in calls."""

    pause: Pause
    max_turn_tokens: int | None = 6
    deadline_s: float = 120.0

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        text = prompt.text
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            for turn in range(3):
                said = client.completions.create(model="policy", prompt=text).choices[0].text
                if turn == 0:
                    self.pause.here()
                text += said + "+1="
        return 1.0


async def test_weights_that_land_between_turns_are_those_of_the_next_turn(
    worker: RolloutWorker, draws: Sequence[Draw], models: Sequence[PreTrainedModel]
) -> None:
    pause, outbox = Pause(), Outbox(MemoryStore(), deltas=False)
    runs, host = replace(agent_runs(worker), agent=ThoughtfulAgent(pause=pause)), Host()
    talks = Conversations(setting=runs.setting, environment=Thoughtful(pause=pause), host=host)
    spoken = asyncio.create_task(talks(draws[0], SAMPLING, untold))
    called = asyncio.create_task(runs(draws[1], SAMPLING, untold))

    await pause.of(8)
    await worker.load(sent(models[1], outbox, version=1))
    pause.over.set()
    groups = await spoken, await called
    host.close()

    for group in groups:
        for rollout in group.rollouts:
            assert versions_by_turn(rollout) == {0: {0}, 1: {1}, 2: {1}}
            check(rollout, group.prompt, models)
