"""Every engine keeps the same promises, on a real model, with the real library."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrl.errors import DisconnectedError, EngineError, WeightSyncError
from llmrl.recipe.schema import Engines, Model
from llmrl.rollouts.engines import Completion, Engine, Request, Serving, engine
from llmrl.rollouts.engines.torch_engine import TorchEngine
from llmrl.weights.adapter import merged
from llmrl.weights.broadcast import BroadcastStore
from llmrl.weights.bundle import ORIGINAL, Broadcast, Probe, WeightBundle
from llmrl.weights.folder import FolderStore
from llmrl.weights.group import Group, hang_up
from llmrl.weights.inbox import Inbox
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.packed import Packed
from llmrl.weights.parcel import parcel
from llmrl.weights.proof import check_probe
from llmrl.weights.seat import Seat
from llmrl.weights.store import MemoryStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = np.array([5, 9, 12, 7], np.int32)
TEMPERATURE = 0.7
CPU = torch.device("cpu")
OUTBOXES: list[Outbox] = []
"""Their memory lives as long as they do."""


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logp_of(model: PreTrainedModel, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    ids = torch.as_tensor(tokens, dtype=torch.long)[None]
    logp = (model(input_ids=ids).logits[0, :-1] / temperature).log_softmax(-1)
    return np.concatenate([[0], logp.gather(-1, ids[0, 1:, None])[:, 0].numpy()]).astype(np.float32)


def probe_of(model: PreTrainedModel) -> Probe:
    tokens = np.array([3, 4, 5, 6, 7, 8, 9, 10], np.int32)
    return Probe(tokens=tokens, logp=logp_of(model, tokens))


def bundle_of(model: PreTrainedModel, version: int) -> WeightBundle:
    OUTBOXES.append(Outbox(MemoryStore(), deltas=False))
    tensors: Tensors = [(name, "whole", tensor) for name, tensor in model.named_parameters()]
    return OUTBOXES[-1].send([tensors], version=version, probe=probe_of(model))


@torch.no_grad()
def moved(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    for parameter in model.parameters():
        parameter.mul_(factor)
    return model


@torch.no_grad()
def nudged(model: PreTrainedModel, *, seed: int) -> None:
    """About one value in twenty, as after a step that most values are too coarse for."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter[torch.rand(parameter.shape, generator=generator) < 0.05] *= 1.5


def check_versions(completion: Completion, models: dict[int, PreTrainedModel]) -> None:
    """Every token's logp is that of its own version over the whole text before it: no KV cache is older."""
    whole = np.concatenate([PROMPT, completion.tokens])
    by_version = {version: logp_of(model, whole, TEMPERATURE) for version, model in models.items()}
    wanted = [by_version[v][PROMPT.size + i] for i, v in enumerate(completion.version.tolist())]
    np.testing.assert_allclose(completion.logp, wanted, atol=1e-4)


def updating(serving: Serving, update: str) -> Serving:
    return dataclasses.replace(serving, engines=serving.engines.model_copy(update={"update": update}))


def request(name: str, *, seed: int = 1, tokens: int = 24, temperature: float = TEMPERATURE) -> Request:
    return Request(id=name, tokens=PROMPT, max_tokens=tokens, temperature=temperature, seed=seed)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["vllm", "torch"])
async def running(request: pytest.FixtureRequest, tiny_model: Path) -> AsyncIterator[Engine]:
    serving = Serving(
        model=Model(path=str(tiny_model), context_tokens=256),
        engines=Engines(kind=request.param, max_sequences=16, kv_cache_mib=64),
    )
    made: Engine = await engine.build(request.param, {}, key="engines").start(serving, device="cpu")
    yield made
    await made.close()


async def test_sampled_logprobs_are_those_of_the_tempered_full_softmax(
    running: Engine, tiny_model: Path
) -> None:
    model = reference(tiny_model)
    await running.load(bundle_of(model, 0))

    completion = await running.generate(request("parity"))

    whole = np.concatenate([PROMPT, completion.tokens])
    np.testing.assert_allclose(completion.logp, logp_of(model, whole, TEMPERATURE)[PROMPT.size :], atol=1e-5)
    assert completion.version.tolist() == [0] * completion.tokens.size
    np.testing.assert_allclose(await running.score(whole), logp_of(model, whole), atol=1e-5)


async def test_a_seed_gives_the_same_response_alone_and_in_company(running: Engine) -> None:
    alone = await running.generate(request("alone", seed=5))
    company = await asyncio.gather(*(running.generate(request(f"c{i}", seed=i)) for i in range(8)))

    assert company[5].tokens.tolist() == alone.tokens.tolist()
    assert len({tuple(c.tokens.tolist()) for c in company}) == 8


async def test_of_those_that_wait_for_a_place_the_oldest_draw_comes_first(running: Engine) -> None:
    ended: list[int] = []

    async def answered(order: int, number: int, tokens: int) -> None:
        asked = request(f"of-{order}-{number}", seed=number, tokens=tokens)
        await running.generate(dataclasses.replace(asked, order=order))
        ended.append(order)

    # There are 16 places, and the first ones keep them until all others have come.
    first = [answered(0, number, 200) for number in range(64)]
    await asyncio.gather(*first, *(answered(order, number, 8) for number in range(16) for order in (5, 1)))

    waited = [order for order in ended if order]
    assert sum(order == 1 for order in waited[:16]) >= 12


async def test_a_response_that_nobody_waits_for_stops_and_can_be_asked_for_again(running: Engine) -> None:
    whole = await running.generate(request("whole", seed=3, tokens=200))
    for again in range(3):
        given_up = asyncio.create_task(running.generate(request("again", seed=3, tokens=200)))
        await asyncio.sleep(0.02 * again)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    # With the same id, as the loop has it; 16 at a time fit, so that nothing may be left behind.
    repeated = await asyncio.gather(
        running.generate(request("again", seed=3, tokens=200)),
        *(running.generate(request(f"other{i}", seed=i, tokens=20)) for i in range(15)),
    )

    assert repeated[0].tokens.tolist() == whole.tokens.tolist()


async def test_an_engine_that_sleeps_answers_nobody_and_wakes_up_with_its_weights(
    running: Engine, tiny_model: Path
) -> None:
    awake = await running.generate(request("awake", seed=4))

    await running.sleep()
    with pytest.raises(EngineError, match="needs weights first"):
        await running.generate(request("asleep"))
    with pytest.raises(EngineError, match="needs weights first"):
        await running.score(PROMPT)
    await running.load(bundle_of(reference(tiny_model), 0))

    assert (await running.generate(request("again", seed=4))).tokens.tolist() == awake.tokens.tolist()


async def test_temperature_zero_takes_the_likeliest_token(running: Engine, tiny_model: Path) -> None:
    completion = await running.generate(request("greedy", temperature=0.0, tokens=8))

    whole = torch.as_tensor(np.concatenate([PROMPT, completion.tokens]), dtype=torch.long)[None]
    with torch.no_grad():
        likeliest = reference(tiny_model)(input_ids=whole).logits[0, PROMPT.size - 1 : -1].argmax(-1)
    assert completion.tokens.tolist() == likeliest.tolist()


async def test_the_budget_ends_a_response_and_says_so(running: Engine) -> None:
    ended = await asyncio.gather(*(running.generate(request(f"b{i}", seed=i, tokens=3)) for i in range(20)))

    assert all(c.tokens.size == 3 for c in ended if c.stop == "length")
    assert any(c.stop == "length" for c in ended)
    # Id 2 is the end of a sequence; a response that ends itself holds it once, as its last token.
    assert all(c.tokens.tolist().index(2) == c.tokens.size - 1 for c in ended if c.stop == "stop")


async def test_weights_land_in_the_middle_of_a_response_and_every_token_knows_its_version(
    running: Engine, tiny_model: Path
) -> None:
    model = moved(reference(tiny_model), 1.25)
    under_way = [
        asyncio.create_task(running.generate(request(f"w{i}", seed=i, tokens=200))) for i in range(8)
    ]
    await asyncio.sleep(0.05)

    await running.load(bundle_of(model, 1))
    completions: list[Completion] = await asyncio.gather(*under_way)
    after = await running.generate(request("after"))

    versions = {tuple(np.unique(c.version).tolist()) for c in completions}
    assert (0, 1) in versions
    assert all((np.diff(c.version) >= 0).all() for c in completions)
    assert set(after.version.tolist()) == {1}
    whole = np.concatenate([PROMPT, after.tokens])
    np.testing.assert_allclose(after.logp, logp_of(model, whole, TEMPERATURE)[PROMPT.size :], atol=1e-5)


@pytest.mark.parametrize("update", ["drain", "abort"])
async def test_responses_under_way_are_finished_first_or_read_again_and_nothing_is_lost(
    running: Engine, tiny_model: Path, update: str
) -> None:
    running._serving = updating(running._serving, update)  # type: ignore[attr-defined]
    old, new = reference(tiny_model), moved(reference(tiny_model), 1.25)
    await running.load(bundle_of(old, 10))
    under_way = [
        asyncio.create_task(running.generate(request(f"{update}{i}", seed=i, tokens=200))) for i in range(8)
    ]
    await asyncio.sleep(0.05)

    await running.load(bundle_of(new, 11))
    completions: list[Completion] = await asyncio.gather(*under_way)

    running._serving = updating(running._serving, "keep")  # type: ignore[attr-defined]
    assert all(c.stop in ("stop", "length") and c.tokens.size == c.version.size for c in completions)
    assert all(c.tokens.size == 200 for c in completions if c.stop == "length")
    versions = {tuple(np.unique(c.version).tolist()) for c in completions}
    assert versions <= {"drain": {(10,)}, "abort": {(10,), (11,), (10, 11)}}[update]
    assert update == "drain" or (10, 11) in versions
    for one in completions:
        check_versions(one, {10: old, 11: new})


async def test_what_a_drain_finds_preempted_goes_on_under_new_weights_and_says_so(tiny_model: Path) -> None:
    serving = Serving(
        model=Model(path=str(tiny_model), context_tokens=256),
        engines=Engines(max_sequences=64, kv_cache_mib=1, update="drain"),
    )
    crowded: Engine = await engine.build("vllm", {}, key="engines").start(serving, device="cpu")
    old, new = reference(tiny_model), moved(reference(tiny_model), 1.25)
    await crowded.load(bundle_of(old, 10))
    under_way = [
        asyncio.create_task(crowded.generate(request(f"p{i}", seed=i, tokens=250))) for i in range(64)
    ]
    await asyncio.sleep(0.4)

    await crowded.load(bundle_of(new, 11))
    completions: list[Completion] = await asyncio.gather(*under_way)
    await crowded.close()

    for one in completions:
        check_versions(one, {10: old, 11: new})
    versions = {tuple(np.unique(c.version).tolist()) for c in completions}
    assert (10, 11) in versions, "the cache is large enough for all: nothing was preempted"


async def test_a_sync_that_is_incomplete_or_does_not_arrive_is_an_error(
    running: Engine, tiny_model: Path
) -> None:
    good = bundle_of(reference(tiny_model), 2)
    stale = bundle_of(moved(reference(tiny_model), 1.5), 2).probe

    with pytest.raises(WeightSyncError, match="1 tensors are missing"):
        await running.load(dataclasses.replace(good, specs=good.specs[1:]))
    await running.load(good)
    served = await running.score(good.probe.tokens)
    check_probe(good, served, dtype="float32")
    with pytest.raises(WeightSyncError, match="does not serve these weights"):
        check_probe(dataclasses.replace(good, probe=stale), served, dtype="float32")


@pytest.mark.parametrize("store", ["memory", "folder"])
async def test_a_chain_of_changes_serves_what_a_full_push_serves(
    running: Engine, tiny_model: Path, tmp_path: Path, store: str
) -> None:
    outbox = Outbox(MemoryStore() if store == "memory" else FolderStore(tmp_path), deltas=True)
    inbox, model = Inbox(tiny_model, dtype="float32"), reference(tiny_model)
    found: list[tuple[int | None, float]] = []
    for version in range(3, 7):
        nudged(model, seed=version)
        tensors: Tensors = [(name, "whole", tensor) for name, tensor in model.named_parameters()]
        bundle = outbox.send([tensors], version=version, probe=probe_of(model))
        found.append((bundle.base, bundle.changed))
        await running.load(inbox.take(bundle))

    chained = await running.generate(request(f"chained-{store}"))
    await running.load(bundle_of(model, 6))
    full = await running.generate(request(f"full-{store}"))

    assert [base for base, _ in found] == [None, 3, 4, 5]
    assert 0.04 < found[-1][1] < 0.06
    assert chained.tokens.tolist() == full.tokens.tolist()
    assert chained.logp.tolist() == full.logp.tolist()


async def test_an_adapter_alone_serves_what_merging_it_before_serves(
    running: Engine, tiny_model: Path
) -> None:
    name, model = "model.layers.1.self_attn.q_proj.weight", reference(tiny_model)
    weight = model.get_parameter(name)
    down, up = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4)
    weight.data = merged(weight.data, down=down, up=up, scale=0.5)
    outbox = Outbox(MemoryStore(), deltas=False)
    scale = torch.tensor(0.5, dtype=torch.float64)

    factors: Tensors = [(name, "down", down), (name, "up", up), (name, "scale", scale)]
    bundle = outbox.send([factors], version=7, probe=probe_of(model), base=ORIGINAL)
    inbox = Inbox(tiny_model, dtype="float32")
    await running.load(inbox.take(bundle))

    after = await running.generate(request("adapted"))
    whole = np.concatenate([PROMPT, after.tokens])
    np.testing.assert_allclose(after.logp, logp_of(model, whole, TEMPERATURE)[PROMPT.size :], atol=1e-5)
    assert bundle.size < 5_000


async def group_with(running: Engine) -> tuple[Group, Seat]:
    """This process as rank 0, and the engine's worker."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    seat = Seat(address=address, rank=0, size=2, deadline_s=60)
    joining = asyncio.create_task(running.join(dataclasses.replace(seat, rank=1)))
    group = await asyncio.to_thread(Group, seat, device=CPU, listener=listener.detach())
    await joining
    return group, seat


def two_buckets(model: PreTrainedModel) -> list[Tensors]:
    tensors: Tensors = [(name, "whole", tensor) for name, tensor in model.named_parameters()]
    return [tensors[:10], tensors[10:]]


async def test_a_broadcast_lands_in_the_middle_of_a_response_and_serves_what_a_full_push_serves(
    running: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    group, _ = await group_with(running)
    outbox, model = Outbox(BroadcastStore(group, device=CPU), deltas=True), reference(tiny_model)
    under_way = [
        asyncio.create_task(running.generate(request(f"b{i}", seed=i, tokens=200))) for i in range(8)
    ]
    bases: list[int | None] = []
    for version in range(21, 24):
        nudged(model, seed=version)
        bundle = outbox.send(two_buckets(model), version=version, probe=probe_of(model))
        bases.append(bundle.base)
        await asyncio.sleep(0.05)
        await running.load(bundle)
        outbox.release(version)

    completions: list[Completion] = await asyncio.gather(*under_way)
    broadcast = await running.generate(request("broadcast"))
    await running.load(bundle_of(model, 23))
    full = await running.generate(request("full"))

    assert any(len(np.unique(c.version)) > 1 for c in completions)
    assert bases == [None, 21, 22]
    assert broadcast.tokens.tolist() == full.tokens.tolist()
    assert broadcast.logp.tolist() == full.logp.tolist()


async def test_a_broadcast_that_breaks_off_is_never_served_and_the_next_sync_mends_it(
    running: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    (group, seat), packed = await group_with(running), Packed(CPU)
    await running.load(bundle_of(reference(tiny_model), 30))
    new = moved(reference(tiny_model), 1.25)
    specs = packed.write(31, [[parcel(*of) for of in bucket] for bucket in two_buckets(new)])
    whole = WeightBundle(version=31, specs=specs, way=Broadcast(), probe=probe_of(new))

    def half() -> None:
        group.meet()
        group.broadcast(packed.blocks(31)[0])
        hang_up(seat.address, "engine-7 failed")

    sending = asyncio.create_task(asyncio.to_thread(half))
    with pytest.raises(DisconnectedError, match=r"was given up \(engine-7 failed\)"):
        await running.load(whole)
    await sending

    if isinstance(running, TorchEngine):
        assert set((await running.generate(request("kept"))).version.tolist()) == {30}
    else:
        with pytest.raises(EngineError, match="a sync of weights 31 failed half-way"):
            await running.generate(request("refused"))
        with pytest.raises(EngineError, match="a sync of weights 31 failed half-way"):
            await running.score(PROMPT)
    await running.load(bundle_of(new, 32))
    after = await running.generate(request("mended"))
    text = np.concatenate([PROMPT, after.tokens])
    np.testing.assert_allclose(after.logp, logp_of(new, text, TEMPERATURE)[PROMPT.size :], atol=1e-5)
    assert set(after.version.tolist()) == {32}


async def test_a_request_that_does_not_fit_is_refused_and_harms_nobody(running: Engine) -> None:
    tokens = np.full(300, 5, np.int32)
    with pytest.raises(EngineError, match="too-long"):
        await running.generate(Request(id="too-long", tokens=tokens, max_tokens=4, temperature=1.0, seed=0))
    assert (await running.generate(request("still-here"))).tokens.size > 0
