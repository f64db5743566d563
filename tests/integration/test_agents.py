"""Agents on a real engine, a real model and the real openai client: what was sampled is what is trained."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from openai import APIError, AsyncOpenAI, BadRequestError, OpenAI

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rewards.judgement import Judgement
from llmrl.rewards.scoring.aborted import overrule
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.environments import environment
from llmrl.rollouts.responder import AgentRuns
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.rollouts.worker import RolloutWorker

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
TURNS = {"turns": 3, "max_turn_tokens": 6}
RUNS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubled(Agent):
    """Makes a call; every second one then gets into trouble."""

    trouble: str = "none"
    deadline_s: float = 4.0
    max_turn_tokens: int | None = 4

    async def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            await client.chat.completions.create(
                model="policy", messages=[{"role": "user", "content": prompt.text}]
            )
            if next(RUNS) % 2:
                return 1.0
            return await self.trouble_with(client)

    async def trouble_with(self, client: AsyncOpenAI) -> float | None:
        if self.trouble == "raises":
            raise RuntimeError("no such tool")
        if self.trouble == "exits":
            sys.exit(0)
        if self.trouble == "waits":
            await asyncio.sleep(60)
        if self.trouble == "blocks":
            time.sleep(8)
        if self.trouble == "nan":
            return float("nan")
        if self.trouble == "huge":
            return 10**400
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetful(Agent):
    """Begins anew after every answer, with a question that it makes of it."""

    deadline_s: float = 20.0
    max_turn_tokens: int | None = 6

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        content = prompt.text
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            for number in range(3):
                answer = client.completions.create(model="policy", prompt=content).choices[0].text
                content = f"{number}+{sum(map(ord, answer)) % 10}="
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacting(Agent):
    """Says too much, then less, and gets into trouble of its own."""

    deadline_s: float = 20.0
    max_turn_tokens: int | None = 4

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            client.completions.create(model="policy", prompt=prompt.text)
            with suppress(BadRequestError):
                client.completions.create(model="policy", prompt="1" * 1000)
            client.completions.create(model="policy", prompt="2=")
        raise RuntimeError("no such tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWords(Agent):
    """Says a line of its own, one for each rollout, after what the dataset asks."""

    deadline_s: float = 20.0

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            own = str(sum(map(ord, api_key)) % 10)
            client.completions.create(model="policy", prompt=prompt.text + own + "=", max_tokens=3)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSums(Agent):
    """Asks twice, as the program below does."""

    deadline_s: float = 20.0

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            first = client.completions.create(model="policy", prompt=prompt.text, max_tokens=4)
            text = prompt.text + first.choices[0].text + "+1="
            second = client.completions.create(model="policy", prompt=text, max_tokens=4)
        return float(len(second.choices[0].text))


TWO_SUMS = """
import json, sys
from urllib.request import Request, urlopen

def said(row, text):
    body = json.dumps({"prompt": text, "max_tokens": 4}).encode()
    key = {"Authorization": "Bearer " + row["api_key"], "Content-Type": "application/json"}
    with urlopen(Request(row["base_url"] + "/completions", body, key)) as reply:
        return json.load(reply)["choices"][0]["text"]

for row in map(json.loads, sys.stdin):
    second = said(row, row["prompt"] + said(row, row["prompt"]) + "+1=")
    print(json.dumps({"outcome": len(second)}), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent(Agent):
    """Fails before its first call."""

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        raise OSError("no docker here")


def stage_of(folder: Path, name: str, options: Mapping[str, object], max_sequences: int = 16) -> Stage:
    return Stage(
        model=Model(path=str(folder), context_tokens=256),
        prompts=Prompts(sources=(Source(task="running_sum", rows=50),)),
        rollouts=Rollouts(temperature=0.7, max_tokens=40),
        engines=Engines(kind="torch", max_sequences=max_sequences),
        environment=Choice(name=name, options=dict(options)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


def sampling(per_prompt: int = 4, max_tokens: int = 40, branches: int = 1) -> Sampling:
    return Sampling(
        purpose="train", per_prompt=per_prompt, temperature=0.7, max_tokens=max_tokens, branches=branches
    )


@pytest.fixture(scope="module")
def draws(tiny_model: Path) -> list[Draw]:
    stage = stage_of(tiny_model, "running_sum", {})
    stream = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0)
    return [stream.at(ordinal) for ordinal in range(4)]


async def worker_of(
    folder: Path,
    name: str,
    options: Mapping[str, object],
    plugins: Sequence[str] = (),
    *,
    max_sequences: int = 16,
) -> RolloutWorker:
    worker = RolloutWorker(stage_of(folder, name, options, max_sequences), "cpu", 0, plugins)
    await worker.start()
    return worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tiny_model: Path) -> AsyncIterator[RolloutWorker]:
    """A worker whose environment is the program of recipes/agents."""
    sys.path.insert(0, str(ROOT / "recipes" / "agents"))
    worker = await worker_of(tiny_model, "sums_by_openai", TURNS, ["sums_by_openai"])
    yield worker
    await worker.close()
    sys.path.remove(str(ROOT / "recipes" / "agents"))


async def runs_of(worker: RolloutWorker, agent: Agent, draw: Draw, sampling: Sampling) -> RolloutGroup:
    """What the worker would answer if this were its environment."""
    assert isinstance(worker._respond, AgentRuns)
    return await dataclasses.replace(worker._respond, agent=agent)(draw, sampling, lambda *_: None)


def told(rollout: Rollout) -> dict[str, object]:
    """Everything but logprobs."""
    columns = dataclasses.asdict(rollout)
    del columns["logp"]
    return {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in columns.items()}


async def test_a_program_gets_the_rollouts_that_an_environment_with_its_words_gets(
    asked: RolloutWorker, draws: Sequence[Draw], tiny_model: Path
) -> None:
    worker = await worker_of(tiny_model, "running_sum", TURNS)
    expected = await asyncio.gather(*(worker.generate(draw, sampling()) for draw in draws))
    await worker.close()

    groups = await asyncio.gather(*(asked.generate(draw, sampling()) for draw in draws))

    # Sixteen programs at a time, each in a thread of its own: every id, mask, version and outcome is equal.
    for group, other in zip(groups, expected, strict=True):
        assert group.prompt.tokens.tolist() == other.prompt.tokens.tolist()
        assert [told(one) for one in group.rollouts] == [told(one) for one in other.rollouts]
        for one, same in zip(group.rollouts, other.rollouts, strict=True):
            np.testing.assert_allclose(one.logp, same.logp, atol=1e-5)  # batched otherwise
    assert {int(one.turn.max()) for group in groups for one in group.rollouts} == {2}
    assert all(not one.trained.all() for group in groups for one in group.rollouts)


async def test_a_program_without_room_for_another_answer_keeps_its_outcome(
    asked: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await asked.generate(draws[0], sampling(max_tokens=9))

    assert all(one.tokens.size <= 9 for one in group.rollouts)
    assert {one.stop for one in group.rollouts} == {"length"}
    assert {one.outcome for one in group.rollouts} <= {0.0, 1 / 3, 2 / 3}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("raises", "RuntimeError: no such tool"),
        ("exits", "SystemExit: 0"),
        ("waits", "did not end within deadline_s = 4"),
        ("blocks", "did not end within deadline_s = 4"),
        ("nan", "run() returned nan"),
        ("huge", "which is neither a finite number nor None"),
    ],
)
async def test_an_agent_in_trouble_aborts_its_own_rollout_with_the_reason_and_nobody_judges_it(
    asked: RolloutWorker,
    draws: Sequence[Draw],
    trouble: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = time.monotonic()
    agent = Troubled(trouble=trouble, deadline_s=4.0 if "deadline" in reason else 60.0)
    with caplog.at_level(logging.WARNING, logger="llmrl"):
        group = await runs_of(asked, agent, draws[0], sampling(per_prompt=12))

    if "deadline" in reason:
        assert time.monotonic() - began < 4 + 1 + 3  # deadline, grace, and the calls before
    aborted = [one for one in group.rollouts if one.stop == "abort"]
    well = [one for one in group.rollouts if one.stop != "abort"]
    assert (len(aborted), len(well)) == (6, 6)
    assert {one.outcome for one in aborted} == {None}
    assert all(reason in one.abort for one in aborted)
    verdicts = overrule(group, [Judgement(status="score", reward=1.0)] * 12)
    expected = ["error" if one.stop == "abort" else "score" for one in group.rollouts]
    assert [verdict.status for verdict in verdicts] == expected
    assert {one.outcome for one in well} == {1.0}
    assert all(one.trained.all() for one in well)
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("llmrl")]
    assert len(warned) == len(aborted)
    assert all(reason in line and "environment Troubled, rollout train-0-" in line for line in warned)


async def test_what_an_agent_says_before_the_policy_does_is_in_the_rollout_and_not_trained(
    asked: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await runs_of(asked, OwnWords(), draws[0], sampling(per_prompt=12))

    # The ids of a tokenizer of characters: digits begin at 3, "=" is 14.
    assert group.prompt.tokens.tolist() == draws[0].prompt.tokens.tolist()
    for rollout in group.rollouts:
        assert rollout.trained.tolist() == [False, False] + [True] * (rollout.tokens.size - 2)
        assert rollout.tokens.size <= 5
        assert 3 <= rollout.tokens[0] <= 12
        assert rollout.tokens[1] == 14
        assert not rollout.logp[:2].any()
        assert rollout.outcome is None


@pytest.mark.parametrize("rows", ["one", "many"])
async def test_any_command_gets_the_rollouts_that_an_agent_with_its_words_gets(
    asked: RolloutWorker, draws: Sequence[Draw], tiny_model: Path, rows: str
) -> None:
    command = [sys.executable, "-c", TWO_SUMS]
    worker = await worker_of(tiny_model, "program", {"command": command, "rows": rows, "at_once": 2})
    group = await worker.generate(draws[1], sampling(per_prompt=6))
    await worker.close()

    expected = await runs_of(asked, TwoSums(), draws[1], sampling(per_prompt=6))

    assert [told(one) for one in group.rollouts] == [told(one) for one in expected.rollouts]
    assert {int(one.turn.max()) for one in group.rollouts} == {1}
    assert all(one.outcome is not None for one in group.rollouts)


async def test_a_command_that_fails_says_of_which_row_it_was_and_with_what_words(
    tiny_model: Path, draws: Sequence[Draw], caplog: pytest.LogCaptureFixture
) -> None:
    worker = await worker_of(
        tiny_model, "program", {"command": ["sh", "-c", "echo no docker here >&2; exit 4"]}
    )
    group = await worker.generate(draws[0], sampling(per_prompt=2))
    await worker.close()

    assert all(re.search(r"status 4 .*'no docker here'", one.abort) for one in group.rollouts)
    assert re.search(r"of prompt 'running_sum/\d+' is aborted: .*status 4", caplog.text)


@environment("counted")
@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Agent):
    """Says how many of it were at work when it was."""

    at_once: int | None = 3
    deadline_s: float = 2.5
    """Less than all of them take one after the other."""

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        AT_WORK.append(1)
        together = len(AT_WORK)
        try:
            with OpenAI(base_url=base_url, api_key=api_key) as client:
                client.completions.create(model="policy", prompt=prompt.text, max_tokens=1)
        finally:
            time.sleep(0.6)
            AT_WORK.pop()
        return float(together)


AT_WORK: list[int] = []


@pytest.mark.parametrize(("at_once", "max_sequences"), [(3, 16), (None, 3)])
async def test_runs_of_an_agent_wait_for_a_place_and_not_at_the_cost_of_their_deadline(
    tiny_model: Path, draws: Sequence[Draw], at_once: int | None, max_sequences: int
) -> None:
    worker = await worker_of(tiny_model, "counted", {"at_once": at_once}, max_sequences=max_sequences)
    groups = await asyncio.gather(*(worker.generate(draw, sampling(per_prompt=5)) for draw in draws[:3]))
    await worker.close()

    outcomes = [one.outcome or 0 for group in groups for one in group.rollouts]
    assert max(outcomes) == 3
    assert {one.stop == "abort" for group in groups for one in group.rollouts} == {False}


async def test_a_run_that_is_given_up_keeps_its_place_until_it_has_ended(
    tiny_model: Path, draws: Sequence[Draw]
) -> None:
    worker = await worker_of(tiny_model, "counted", {"at_once": 1, "deadline_s": 60.0})
    given_up = asyncio.create_task(worker.generate(draws[0], sampling(per_prompt=2)))
    while not AT_WORK:
        await asyncio.sleep(0.01)
    await worker.abandon(draws[0], sampling(per_prompt=2))
    with pytest.raises(EngineError, match="were abandoned"):
        await given_up
    group = await worker.generate(draws[1], sampling(per_prompt=2))
    await worker.close()

    assert [one.outcome for one in group.rollouts] == [1.0, 1.0]


async def test_an_agent_that_found_room_again_is_aborted_for_what_befalls_it_later(
    asked: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await runs_of(asked, Compacting(), draws[0], sampling(per_prompt=2))

    assert {(one.stop, one.abort) for one in group.rollouts} == {("abort", "RuntimeError: no such tool")}


async def test_an_agent_that_forgets_is_trained_on_every_answer_after_what_it_asked_then(
    asked: RolloutWorker, draws: Sequence[Draw], tiny_model: Path
) -> None:
    as_scored = dataclasses.replace(sampling(), temperature=1.0)
    group = await runs_of(asked, Forgetful(), draws[0], as_scored)

    tokenizer = load_tokenizer(asked._stage.model)
    for rollout in group.rollouts:
        assert rollout.trained.all()
        assert (int(rollout.turn.max()), len(rollout.rewrites)) == (2, 2)
        assert all(tokenizer.decode(rewrite.context)[1] == "+" for rewrite in rollout.rewrites)
        for context, here in rollout.segments(group.prompt.tokens):
            (scored,) = await asked.score([np.concatenate([context, rollout.tokens[here]])])
            np.testing.assert_allclose(rollout.logp[here], scored[context.size :], atol=1e-5)


async def test_an_agent_that_never_calls_gives_empty_rollouts_with_its_own_words(
    asked: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await runs_of(asked, Silent(), draws[0], sampling())

    assert group.prompt.tokens is draws[0].prompt.tokens
    assert [(one.stop, one.abort, one.tokens.size) for one in group.rollouts] == [
        ("abort", "OSError: no docker here", 0)
    ] * 4
    assert group.oldest_version is None


async def test_an_agent_cannot_be_branched(asked: RolloutWorker, draws: Sequence[Draw]) -> None:
    with pytest.raises(EngineError, match=r"rollouts\.branches must be 1, got 2"):
        await runs_of(asked, Silent(), draws[0], sampling(branches=2))


async def test_the_key_of_a_rollout_ends_with_it(asked: RolloutWorker, draws: Sequence[Draw]) -> None:
    keys: list[str] = []

    @dataclass(frozen=True, kw_only=True)
    class Leaker(Agent):
        def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float:
            keys.append(api_key)
            with OpenAI(base_url=base_url, api_key=api_key) as client:
                client.completions.create(model="policy", prompt=prompt.text)
            return 1.0

    await runs_of(asked, Leaker(), draws[0], sampling(per_prompt=2))

    assert len(set(keys)) == 2
    late = AsyncOpenAI(base_url=asked._endpoint.url, api_key=keys[0])
    with pytest.raises(APIError, match="no rollout under way has this key"):
        await late.completions.create(model="policy", prompt="1+1=")
    await late.close()
