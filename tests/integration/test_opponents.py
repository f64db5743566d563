"""The opponent of the torch engine is who the recipe says, on a real model."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Engines, Model, Opponent, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.engines import Completion, Engine, Request, Sampler, Sampling, Serving, engine
from llmrl.rollouts.engines.opponent import geometric_mixture
from llmrl.rollouts.worker import RolloutWorker
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.store import MemoryStore

pytestmark = pytest.mark.asyncio

PROMPT = np.array([5, 9, 12, 7], np.int32)
TEMPERATURE = 0.7
OUTBOXES: list[Outbox] = []
"""Their memory lives as long as they do."""

Logits = Callable[[torch.Tensor], torch.Tensor]
"""[1, L] ids to [L, V] logits."""


def loaded(folder: Path, factor: float = 1.0) -> PreTrainedModel:
    """The model on disk, all its weights times ``factor``."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def of_model(model: PreTrainedModel) -> Logits:
    return lambda ids: model(input_ids=ids).logits[0]


@torch.no_grad()
def logp_of(logits: Logits, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    ids = torch.as_tensor(tokens, dtype=torch.long)[None]
    logp = (logits(ids)[:-1] / temperature).log_softmax(-1)
    return np.concatenate([[0], logp.gather(-1, ids[0, 1:, None])[:, 0].numpy()]).astype(np.float32)


def bundle_of(model: PreTrainedModel, version: int) -> WeightBundle:
    tokens = np.array([3, 4, 5, 6, 7, 8, 9, 10], np.int32)
    probe = Probe(tokens=tokens, logp=logp_of(of_model(model), tokens))
    OUTBOXES.append(Outbox(MemoryStore(), deltas=False))
    tensors: Tensors = [(name, "whole", tensor) for name, tensor in model.named_parameters()]
    return OUTBOXES[-1].send([tensors], version=version, probe=probe)


def request(name: str, sampler: Sampler, *, seed: int = 1, tokens: int = 24) -> Request:
    return Request(
        id=name, tokens=PROMPT, max_tokens=tokens, temperature=TEMPERATURE, seed=seed, sampler=sampler
    )


def stage_of(folder: Path, opponent: Opponent | None, kind: str = "torch") -> Stage:
    return Stage(
        model=Model(path=str(folder), context_tokens=256),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        rollouts=Rollouts(temperature=TEMPERATURE),
        engines=Engines(kind=kind, max_sequences=16, kv_cache_mib=64),
        objective=Choice(name="nash_md"),
        optimizer=Optimizer(steps=1),
        opponent=opponent,
    )


@asynccontextmanager
async def serving(folder: Path, opponent: Opponent | None, kind: str = "torch") -> AsyncGenerator[Engine]:
    made = engine.build(kind, {}, key="engines")
    served: Engine = await made.start(Serving.of(stage_of(folder, opponent, kind)), device="cpu")
    yield served
    await served.close()


def assert_sampled_from(logits: Logits, answer: Completion) -> None:
    expected = logp_of(logits, np.concatenate([PROMPT, answer.tokens]), TEMPERATURE)[PROMPT.size :]
    np.testing.assert_allclose(answer.logp, expected, atol=2e-4)


async def test_the_reference_answers_with_the_weights_of_the_start(tiny_model: Path) -> None:
    start, later = loaded(tiny_model), loaded(tiny_model, 1.1)

    async with serving(tiny_model, Opponent(kind="reference")) as served:
        await served.load(bundle_of(later, 1))
        own = await served.generate(request("own", "policy"))
        other = await served.generate(request("other", "opponent"))

    assert_sampled_from(of_model(later), own)
    assert_sampled_from(of_model(start), other)
    # The lag bound holds for the policy's own tokens: the opponent's are as new as they.
    assert set(other.version) == {1}


@pytest.mark.parametrize("kind", ["torch", "vllm"])
async def test_the_mixture_is_the_geometric_one_token_by_token(tiny_model: Path, kind: str) -> None:
    start, later = of_model(loaded(tiny_model)), of_model(loaded(tiny_model, 1.1))

    async with serving(tiny_model, Opponent(kind="mixture", mixture=0.25), kind) as served:
        await served.load(bundle_of(loaded(tiny_model, 1.1), 1))
        # Of different length and all at once, so that requests come and go in the engine's batch.
        asked = [request(str(n), "opponent" if n % 2 else "policy", seed=n, tokens=8 + n) for n in range(12)]
        answers = await asyncio.gather(*map(served.generate, asked))

    for one, answer in zip(asked, answers, strict=True):
        if one.sampler == "policy":
            assert_sampled_from(later, answer)
        else:
            assert_sampled_from(lambda ids: geometric_mixture(later(ids), start(ids), weight=0.25), answer)


@pytest.mark.parametrize(("weight", "factor"), [(0.0, 1.1), (1.0, 1.0)], ids=["self-play", "reference"])
async def test_at_its_ends_the_mixture_is_the_policy_or_the_reference(
    tiny_model: Path, weight: float, factor: float
) -> None:
    async with serving(tiny_model, Opponent(kind="mixture", mixture=weight)) as served:
        await served.load(bundle_of(loaded(tiny_model, 1.1), 1))
        answer = await served.generate(request("one", "opponent"))

    assert_sampled_from(of_model(loaded(tiny_model, factor)), answer)


async def test_the_average_follows_the_policy_by_versions(tiny_model: Path) -> None:
    # Weights times 1.0, then 1.2 and 1.4: the average is 1.0, then 1.1 and 1.25.
    async with serving(tiny_model, Opponent(kind="average", decay=0.5)) as served:
        await served.load(bundle_of(loaded(tiny_model, 1.2), 1))
        first = await served.generate(request("first", "opponent"))
        for _ in range(2):  # a sync that is repeated moves nothing twice
            await served.load(bundle_of(loaded(tiny_model, 1.4), 2))
        second = await served.generate(request("second", "opponent"))

    assert_sampled_from(of_model(loaded(tiny_model, 1.1)), first)
    assert_sampled_from(of_model(loaded(tiny_model, 1.25)), second)


async def test_a_group_has_the_policys_responses_and_then_the_opponents(tiny_model: Path) -> None:
    worker = RolloutWorker(stage_of(tiny_model, Opponent(kind="reference")), "cpu", 7)
    prompt = Prompt(id="p/0", tokens=PROMPT, text="", answer=None, source="p")
    sampling = Sampling(purpose="train", per_prompt=2, temperature=1.0, max_tokens=8, opponents=1)
    await worker.start()

    group = await worker.generate(Draw(ordinal=3, prompt=prompt), sampling)
    again = await worker.generate(Draw(ordinal=3, prompt=prompt), sampling)
    alone = await worker.generate(Draw(ordinal=3, prompt=prompt), dataclasses.replace(sampling, opponents=0))
    await worker.close()

    texts = [one.text for one in group.rollouts]
    assert [one.opponent for one in group.rollouts] == [False, False, True]
    assert [one.text for one in again.rollouts] == texts
    assert [one.text for one in alone.rollouts] == texts[:2]
    assert len(set(texts)) == 3


async def test_who_asks_for_an_opponent_that_is_not_there_is_told(tiny_model: Path) -> None:
    async with serving(tiny_model, None) as served:
        with pytest.raises(
            EngineError, match=r"request lost is for the opponent, but opponent\.kind is 'none'"
        ):
            await served.generate(request("lost", "opponent"))
