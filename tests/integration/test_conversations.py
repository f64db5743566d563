"""Conversations on a real engine and a real model: what was sampled is what the model says of the whole."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.engines import Engine, Request, Sampling, Serving, engine
from llmrl.rollouts.environments import Environment, Reply, Turn, environment
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.rollouts.worker import RolloutWorker

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPERATURE = 0.7
SUMS = Choice(name="running_sum", options={"turns": 3, "max_turn_tokens": 6})


def stage_of(folder: Path, environment: Choice | None, *, chat: bool = False) -> Stage:
    return Stage(
        model=Model(path=str(folder), context_tokens=256, chat=chat),
        prompts=Prompts(sources=(Source(task="running_sum", rows=50),)),
        rollouts=Rollouts(temperature=TEMPERATURE, max_tokens=40),
        engines=Engines(kind="torch", max_sequences=16),
        environment=environment,
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


def sampling(per_prompt: int = 4, branches: int = 1, max_tokens: int = 40) -> Sampling:
    return Sampling(
        purpose="train",
        per_prompt=per_prompt,
        temperature=TEMPERATURE,
        max_tokens=max_tokens,
        branches=branches,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talking(tiny_model: Path) -> AsyncIterator[RolloutWorker]:
    worker = RolloutWorker(stage_of(tiny_model, SUMS), "cpu", 0)
    await worker.start()
    yield worker
    await worker.close()


@pytest.fixture(scope="module")
def draws(tiny_model: Path) -> list[Draw]:
    stage = stage_of(tiny_model, SUMS)
    stream = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0)
    return [stream.at(ordinal) for ordinal in range(4)]


@torch.no_grad()
def logp_of(folder: Path, prompt: Prompt, rollout: Rollout) -> NDArray[np.float32]:
    """[L] nats of the response, in one forward pass over everything that was said in each of its segments."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pieces: list[NDArray[np.float32]] = []
    for context, here in rollout.segments(prompt.tokens):
        ids = torch.as_tensor(np.concatenate([context, rollout.tokens[here]]), dtype=torch.long)[None]
        logp = (model(input_ids=ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
        pieces.append(logp.gather(-1, ids[0, 1:, None])[context.size - 1 :, 0].numpy())
    return np.concatenate(pieces)


def ids_of(group: RolloutGroup) -> list[list[int]]:
    return [rollout.tokens.tolist() for rollout in group.rollouts]


async def test_the_logprobs_of_every_turn_are_those_of_one_pass_over_the_whole(
    talking: RolloutWorker, draws: Sequence[Draw], tiny_model: Path
) -> None:
    groups = await asyncio.gather(*(talking.generate(draw, sampling()) for draw in draws))

    for group in groups:
        for rollout in group.rollouts:
            expected = logp_of(tiny_model, group.prompt, rollout)
            np.testing.assert_allclose(rollout.logp[rollout.trained], expected[rollout.trained], atol=1e-5)
            assert not rollout.logp[~rollout.trained].any()
            assert rollout.tokens.size <= 40
            assert rollout.outcome in {0.0, 1 / 3, 2 / 3, 1.0}
    assert {int(r.turn.max()) for group in groups for r in group.rollouts} == {2}


THOUGHTLESS = (
    "{% for m in messages %}{{ m.content.split('#') | last if m.role == 'assistant' else m.content }},"
    "{% endfor %}"
)
"""What the policy says before a # is a thought, which no later turn gets to see."""


async def test_the_logprobs_of_every_turn_are_those_after_what_the_template_made_of_the_past(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(THOUGHTLESS)
    stage = stage_of(folder, SUMS, chat=True)
    stream = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0)
    worker = RolloutWorker(stage, "cpu", 0)
    await worker.start()
    groups = await asyncio.gather(*(worker.generate(stream.at(n), sampling()) for n in range(4)))
    await worker.close()

    rollouts = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    for prompt, rollout in rollouts:
        expected = logp_of(folder, prompt, rollout)
        np.testing.assert_allclose(rollout.logp[rollout.trained], expected[rollout.trained], atol=1e-5)
    # A # is one of 17 tokens: some conversations have a thought, others have none.
    assert {len(rollout.rewrites) for _, rollout in rollouts} >= {0, 1}


async def test_a_draw_gives_the_same_conversations_alone_and_in_company(
    talking: RolloutWorker, draws: Sequence[Draw]
) -> None:
    alone = await talking.generate(draws[1], sampling())
    company = await asyncio.gather(*(talking.generate(draw, sampling()) for draw in draws))

    assert ids_of(company[1]) == ids_of(alone)
    assert len({tuple(ids) for group in company for ids in ids_of(group)}) == 16


async def test_the_responses_to_a_draw_meet_the_same_user(
    talking: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await talking.generate(draws[0], sampling())

    world = derive_seed(0, "train", 0, draws[0].prompt.id, "world")
    added = [f"> +{derive_seed(world, turn) % 10}=" for turn in (1, 2)]
    for rollout in group.rollouts:
        assert [line for line in rollout.text.splitlines() if line.startswith("> ")] == added


async def test_branches_part_at_one_turn_of_a_conversation_that_is_else_the_same(
    talking: RolloutWorker, draws: Sequence[Draw]
) -> None:
    whole = await talking.generate(draws[0], sampling())
    group = await talking.generate(draws[0], sampling(branches=2))

    # The first of each pair is the conversation that would have been held anyway.
    assert [ids_of(group)[0], ids_of(group)[2]] == [ids_of(whole)[0], ids_of(whole)[2]]
    for one, other in (group.rollouts[:2], group.rollouts[2:]):
        start = int(np.flatnonzero(one.trained)[0])
        assert one.tokens[:start].tolist() == other.tokens[:start].tolist()
        assert set(one.turn[one.trained]) == set(other.turn[other.trained])
        assert one.tokens[start:].tolist() != other.tokens[start:].tolist()


async def test_without_an_environment_a_response_is_what_it_always_was(
    tiny_model: Path, draws: Sequence[Draw]
) -> None:
    stage = stage_of(tiny_model, None)
    worker = RolloutWorker(stage, "cpu", 0)
    await worker.start()
    bare: Engine = await engine.build("torch", {}, key="engines").start(Serving.of(stage), device="cpu")

    group = await worker.generate(draws[0], sampling(per_prompt=2))
    answers = [
        await bare.generate(
            Request(
                id=f"bare-{sample}",
                tokens=draws[0].prompt.tokens,
                max_tokens=40,
                temperature=TEMPERATURE,
                seed=derive_seed(0, "train", 0, draws[0].prompt.id, sample),
            )
        )
        for sample in range(2)
    ]
    await worker.close()
    await bare.close()

    assert ids_of(group) == [answer.tokens.tolist() for answer in answers]
    assert [rollout.trained.all() for rollout in group.rollouts] == [True, True]
    assert {int(turn) for rollout in group.rollouts for turn in rollout.turn} == {0}
    assert [rollout.outcome for rollout in group.rollouts] == [None, None]
    prompt = group.prompt
    for rollout in group.rollouts:
        np.testing.assert_allclose(rollout.logp, logp_of(tiny_model, prompt, rollout), atol=1e-5)


async def test_a_budget_without_room_for_a_reply_ends_the_conversation(
    talking: RolloutWorker, draws: Sequence[Draw]
) -> None:
    group = await talking.generate(draws[0], sampling(max_tokens=9))

    assert all(rollout.tokens.size <= 9 for rollout in group.rollouts)
    assert {rollout.stop for rollout in group.rollouts} == {"length"}
    assert all(rollout.trained[-1] for rollout in group.rollouts)


@environment("stuck")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck(Environment):
    """Says nothing for a while to one prompt, and never leaves its thread meanwhile; others are done."""

    prompt: str = ""
    reply_deadline_s: float = 0.3

    def start(self, prompt: Prompt, *, seed: int) -> StuckEpisode:
        return StuckEpisode(hangs=prompt.id == self.prompt)


@dataclass(slots=True, kw_only=True)
class StuckEpisode:
    hangs: bool

    async def reply(self, turn: Turn) -> Reply:
        if self.hangs:
            time.sleep(4)
        return Reply(over=True, outcome=1.0)


async def test_an_environment_that_hangs_costs_its_own_prompt_and_the_engine_goes_on(
    tiny_model: Path, draws: Sequence[Draw]
) -> None:
    stuck = Choice(name="stuck", options={"prompt": draws[0].prompt.id})
    worker = RolloutWorker(stage_of(tiny_model, stuck), "cpu", 0)
    await worker.start()

    hung, probes = await asyncio.gather(
        worker.generate(draws[0], sampling(per_prompt=1)), worker.score([np.arange(9, dtype=np.int32)] * 5)
    )
    others = await asyncio.gather(*(worker.generate(draw, sampling()) for draw in draws[1:]))
    await worker.close()

    (rollout,) = hung.rollouts
    assert (rollout.stop, rollout.outcome) == ("abort", None)
    assert rollout.abort == "environment Stuck: no reply within 0.3 s"
    assert rollout.trained.all()  # what the policy said; its judgement is an error, so nobody learns from it
    assert len(probes) == 5
    assert {r.outcome for group in others for r in group.rollouts} == {1.0}
