"""Requests to a real vLLM: the weights that they meet on their way, and the messages that come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest

from llmrl.errors import LlmrlError
from llmrl.recipe.schema import Engines, Model
from llmrl.rollouts.engines import Request, Serving
from llmrl.rollouts.engines.kinds import Vllm
from llmrl.rollouts.engines.vllm_engine import VllmEngine
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.store import MemoryStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = np.array([5, 9, 12, 7], np.int32)
LONG = np.resize(PROMPT, 260)
"""More than a block of vLLM's cache on CPU."""
NO_PROBE = Probe(tokens=PROMPT, logp=np.zeros(PROMPT.size, np.float32))
OUTBOX = Outbox(MemoryStore(), deltas=False)


def bundle_of(folder: Path, version: int, *, scale: float = 1.0) -> WeightBundle:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors: Tensors = [(name, "whole", scale * tensor.detach()) for name, tensor in model.named_parameters()]
    return OUTBOX.send([tensors], version=version, probe=NO_PROBE)


def request(name: str, *, seed: int = 0, tokens: int = 4) -> Request:
    return Request(id=name, tokens=PROMPT, max_tokens=tokens, temperature=1.0, seed=seed)


def long(name: str, most: int) -> Request:
    return Request(id=name, tokens=LONG, max_tokens=most, temperature=1.0, seed=0)


@asynccontextmanager
async def started(model: Path, *, max_sequences: int = 16) -> AsyncGenerator[VllmEngine]:
    serving = Serving(
        model=Model(path=str(model), context_tokens=2048),
        engines=Engines(kind="vllm", max_sequences=max_sequences, kv_cache_mib=64),
    )
    engine = await Vllm().start(serving, device="cpu")
    assert isinstance(engine, VllmEngine)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path) -> AsyncGenerator[VllmEngine]:
    """One for several tests: the first has its very first request, and each sync a version of its own."""
    async with started(tiny_model) as one:
        yield one


def admitted(engine: VllmEngine, patched: pytest.MonkeyPatch) -> list[tuple[str | None, str]]:
    """Of every request that goes to vLLM's other process: its salt, and that of the weights served then."""
    core, seen = engine._llm.engine_core, list[tuple[str | None, str]]()
    add = core.add_request_async

    async def note_and_add(request: EngineCoreRequest) -> None:
        seen.append((request.cache_salt, f"v{engine._version}"))
        await add(request)

    patched.setattr(core, "add_request_async", note_and_add)
    return seen


def overheard(engine: VllmEngine, patched: pytest.MonkeyPatch) -> list[EngineCoreOutputs]:
    """Every message that comes out of the engine's process, after the one that is waited for already."""
    core, messages = engine._llm.engine_core, list[EngineCoreOutputs]()
    receive = core.get_output_async

    async def receive_and_note() -> EngineCoreOutputs:
        messages.append(await receive())
        return messages[-1]

    patched.setattr(core, "get_output_async", receive_and_note)
    return messages


async def test_a_request_has_the_salt_of_the_weights_it_meets_however_busy_vllms_threads_are(
    engine: VllmEngine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, free, seen = bundle_of(tiny_model, 1), threading.Event(), admitted(engine, monkeypatch)
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


async def test_a_request_that_waits_for_a_sync_waits_also_for_the_next_one(
    engine: VllmEngine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles, seen = [bundle_of(tiny_model, version) for version in (2, 3)], admitted(engine, monkeypatch)

    async def load_both() -> None:
        for bundle in bundles:
            await engine.load(bundle)

    loading = asyncio.create_task(load_both())
    while engine._door.is_set():
        await asyncio.sleep(0)
    completion = await engine.generate(request("waits"))
    await loading

    assert seen == [("v3", "v3")]
    assert set(completion.version.tolist()) == {3}


async def test_a_response_crosses_the_process_boundary_once(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = overheard(engine, monkeypatch)
    await engine.generate(request("first", tokens=1))
    messages.clear()
    completions = await asyncio.gather(
        *(engine.generate(request(f"r{seed}", seed=seed, tokens=40)) for seed in range(8))
    )

    sent = [len(one.new_token_ids) for message in messages for one in message.outputs]
    assert sorted(sent) == sorted(completion.tokens.size for completion in completions)


@pytest.mark.parametrize("doing", ["took weights 2", "fell asleep"])
async def test_a_process_of_vllm_that_dies_while_it_is_asked_something_is_named_at_once(
    tiny_model: Path, doing: str
) -> None:
    first, second = bundle_of(tiny_model, 1), bundle_of(tiny_model, 2)
    mine = set(psutil.Process().children(recursive=True))
    async with started(tiny_model) as one:
        await one.load(first)
        theirs = [p for p in psutil.Process().children(recursive=True) if p not in mine]
        (core,) = [process for process in theirs if "EngineCore" in process.name()]
        core.suspend()
        asked = asyncio.create_task(one.load(second) if doing == "took weights 2" else one.sleep())
        await asyncio.sleep(0.5)
        assert not asked.done()  # nothing is generated, so no request could say so

        core.kill()
        with pytest.raises(LlmrlError, match=rf"^vLLM died while it {doing}$"):
            async with asyncio.timeout(20):
                await asked


async def test_what_waits_for_a_place_reads_its_prompt_with_the_weights_it_meets(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = bundle_of(tiny_model, 1), bundle_of(tiny_model, 2, scale=1.5)
    async with started(tiny_model, max_sequences=1) as narrow:
        await narrow.load(bundles[0])  # so that the next one is quick
        await narrow.generate(long("cached", 1))
        seen = admitted(narrow, monkeypatch)
        first, second = (
            asyncio.create_task(narrow.generate(one)) for one in (long("first", 1500), long("second", 8))
        )
        while len(seen) < 2:
            await asyncio.sleep(0)
        await narrow.load(bundles[1])
        before, after = await first, await second
        whole = await narrow.score(np.concatenate([LONG, after.tokens]))

    assert before.version[-1] == 2  # so the other one did wait
    assert set(after.version.tolist()) == {2}
    np.testing.assert_allclose(after.logp, whole[LONG.size :], atol=1e-4)
