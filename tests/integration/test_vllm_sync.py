"""A request that meets a weight sync on its way to vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from vllm.v1.engine import EngineCoreRequest

from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.engines import Request
from llmrl.rollouts.engines.kinds import Vllm
from llmrl.rollouts.engines.vllm_engine import VllmEngine
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.store import MemoryStore

PROMPT = np.array([5, 9, 12, 7], np.int32)
LONG = np.resize(PROMPT, 260)
"""More than a block of vLLM's cache on CPU."""
NO_PROBE = Probe(tokens=PROMPT, logp=np.zeros(PROMPT.size, np.float32))
OUTBOX = Outbox(MemoryStore(), deltas=False)


def bundle_of(folder: Path, version: int, *, scale: float = 1.0) -> WeightBundle:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors: Tensors = [(name, "whole", scale * tensor.detach()) for name, tensor in model.named_parameters()]
    return OUTBOX.send([tensors], version=version, probe=NO_PROBE)


def request(name: str) -> Request:
    return Request(id=name, tokens=PROMPT, max_tokens=4, temperature=1.0, seed=0)


def long(name: str, most: int) -> Request:
    return Request(id=name, tokens=LONG, max_tokens=most, temperature=1.0, seed=0)


@asynccontextmanager
async def started(model: Path, *, max_sequences: int = 16) -> AsyncGenerator[VllmEngine]:
    stage = Stage(
        model=Model(path=str(model), context_tokens=2048),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        rollouts=Rollouts(),
        engines=Engines(kind="vllm", max_sequences=max_sequences, kv_cache_mib=64),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )
    engine = await Vllm().start(stage, device="cpu")
    assert isinstance(engine, VllmEngine)
    yield engine
    await engine.close()


def admitted(engine: VllmEngine) -> list[tuple[str | None, str]]:
    """Of every request that goes to vLLM's other process: its salt, and that of the weights served then."""
    core, seen = engine._llm.engine_core, list[tuple[str | None, str]]()
    add = core.add_request_async

    async def note_and_add(request: EngineCoreRequest) -> None:
        seen.append((request.cache_salt, f"v{engine._version}"))
        await add(request)

    core.add_request_async = note_and_add
    return seen


@pytest.mark.asyncio
async def test_a_request_has_the_salt_of_the_weights_it_meets_however_busy_vllms_threads_are(
    tiny_model: Path,
) -> None:
    bundle, free = bundle_of(tiny_model, 1), threading.Event()
    async with started(tiny_model) as engine:
        seen = admitted(engine)
        engine._llm.renderer._executor.submit(free.wait, 60)
        try:
            # The very first request, so that what vLLM finds out only once is on its way too.
            before = asyncio.create_task(engine.generate(request("before")))
            await asyncio.sleep(0)
            await engine.load(bundle)
        finally:
            free.set()
        await before
        after = await engine.generate(request("after"))

    assert seen == [("v0", "v0"), ("v1", "v1")]
    assert set(after.version.tolist()) == {1}


@pytest.mark.asyncio
async def test_a_request_that_waits_for_a_sync_waits_also_for_the_next_one(tiny_model: Path) -> None:
    bundles = [bundle_of(tiny_model, version) for version in (1, 2)]
    async with started(tiny_model) as engine:
        seen = admitted(engine)

        async def load_both() -> None:
            for bundle in bundles:
                await engine.load(bundle)

        loading = asyncio.create_task(load_both())
        while engine._door.is_set():
            await asyncio.sleep(0)
        completion = await engine.generate(request("waits"))
        await loading

    assert seen == [("v2", "v2")]
    assert set(completion.version.tolist()) == {2}


@pytest.mark.asyncio
async def test_what_waits_for_a_place_reads_its_prompt_with_the_weights_it_meets(tiny_model: Path) -> None:
    bundles = bundle_of(tiny_model, 1), bundle_of(tiny_model, 2, scale=1.5)
    async with started(tiny_model, max_sequences=1) as engine:
        await engine.load(bundles[0])  # so that the next one is quick
        await engine.generate(long("cached", 1))
        seen = admitted(engine)
        first, second = (
            asyncio.create_task(engine.generate(one)) for one in (long("first", 1500), long("second", 8))
        )
        while len(seen) < 2:
            await asyncio.sleep(0)
        await engine.load(bundles[1])
        before, after = await first, await second
        whole = await engine.score(np.concatenate([LONG, after.tokens]))

    assert before.version[-1] == 2  # so the other one did wait
    assert set(after.version.tolist()) == {2}
    np.testing.assert_allclose(after.logp, whole[LONG.size :], atol=1e-4)
