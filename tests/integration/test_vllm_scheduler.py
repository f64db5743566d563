"""What leaves vLLM's process, and when; that it is one message is seen in test_vllm_sync.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.outputs import LogprobsLists

from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Engines, Model
from llmrl.rollouts.engines import Request, Serving
from llmrl.rollouts.engines.kinds import Vllm
from llmrl.rollouts.engines.vllm_engine import VllmEngine
from llmrl.rollouts.engines.vllm_scheduler import join

PROMPT = np.array([5, 9, 12, 7], np.int32)


def output(token: int, logp: float, ended: FinishReason | None = None) -> EngineCoreOutput:
    logprobs = LogprobsLists(np.array([[token]]), np.array([[logp]]), np.array([token % 3]))
    return EngineCoreOutput("r", [token], new_logprobs=logprobs, finish_reason=ended)


def request(name: str, *, seed: int, tokens: int) -> Request:
    return Request(id=name, tokens=PROMPT, max_tokens=tokens, temperature=1.0, seed=seed)


@asynccontextmanager
async def started(model: Path, *stop: str, places: int = 16) -> AsyncGenerator[VllmEngine]:
    serving = Serving(
        model=Model(path=str(model), context_tokens=256),
        stop=stop,
        engines=Engines(kind="vllm", max_sequences=places, kv_cache_mib=64),
    )
    engine = await Vllm().start(serving, device="cpu")
    assert isinstance(engine, VllmEngine)
    yield engine
    await engine.close()


def test_joined_outputs_have_all_tokens_and_logprobs_in_order_and_the_last_ones_end() -> None:
    joined = join([output(4, -0.5), output(7, -1.5), output(2, -0.25, FinishReason.STOP)])

    assert joined.new_token_ids == [4, 7, 2]
    assert joined.new_logprobs is not None
    assert joined.new_logprobs.logprob_token_ids.tolist() == [[4], [7], [2]]
    assert joined.new_logprobs.logprobs.tolist() == [[-0.5], [-1.5], [-0.25]]
    assert joined.new_logprobs.sampled_token_ranks.tolist() == [1, 1, 2]
    assert joined.finish_reason == FinishReason.STOP


@pytest.mark.asyncio
async def test_a_stop_text_is_still_found_at_once_also_if_it_is_a_special_token(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(Model(path=str(tiny_model), context_tokens=256))
    begin, equals = 1, int(tokenizer.encode_prompt("=")[-1])
    async with started(tiny_model, "=", "<bos>") as engine:
        completions = await asyncio.gather(
            *(engine.generate(request(f"r{seed}", seed=seed, tokens=200)) for seed in range(8))
        )

    last = {int(one.tokens[-1]) for one in completions}
    assert {begin, equals} <= last
    assert all(not {begin, equals} & set(one.tokens[:-1].tolist()) for one in completions)
    assert all("<" not in tokenizer.decode(one.tokens) for one in completions)


@pytest.mark.asyncio
async def test_what_is_scored_waits_for_no_response_however_many_wait_for_a_place(tiny_model: Path) -> None:
    async with started(tiny_model, places=2) as engine:
        asked = [
            asyncio.create_task(engine.generate(request(f"r{seed}", seed=seed, tokens=200)))
            for seed in range(40)
        ]
        await asyncio.sleep(0.05)

        await asyncio.gather(*(engine.score(PROMPT) for _ in range(3)))
        done = sum(one.done() for one in asked)
        await asyncio.gather(*asked)

    assert done <= 20  # in the order in which all was asked at least 38 would be
