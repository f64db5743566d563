"""What a weight sync costs: over vLLM's own reload of the same tensors, over a copy of them, and as changes.

    .venv/bin/python -m tests.speed.table sync

Ours is everything between the step and an engine that generates with the new version: ``Outbox.send`` into
shared memory, the inbox, vLLM's pause, update session and resume. The proof, a probe that is scored while
others generate, counts on its own. Bare is ``reload_weights`` with the tensors at hand, in one process. Every
run has other weights, and both sides must then give the same logprobs. What a sync takes from generation is
the CPU time that a job costs more when weights land in its middle.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmrl.rollouts.engines.kinds import CPU_ENVIRONMENT, QUIET_ENVIRONMENT
from llmrl.rollouts.worker import RolloutWorker
from llmrl.weights.bundle import Probe
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.receiver import Receiver
from llmrl.weights.store import MemoryStore
from tests.speed.compare import Outcome, Row, Run, WrongResultError, in_turns, must_agree, started
from tests.speed.model import build_model, stage_for
from tests.speed.rollouts import SAMPLING, draws, fitting, raw_options, silence_the_end

TOKENS = np.arange(3, 27, dtype=np.int32)
SHARES = (0.005, 0.02, 0.1)
"""Of bfloat16 values that have changed."""
RELOAD, PROVEN, COPY, LOST = 1.3, 1.6, 3.0, 0.02
SYNCS = 4
"""In the middle of one job of ``rollouts``."""
IN_A_ROW = 20
"""Versions that one run takes: CPU time is told in hundredths of a second, and a sync takes a few of them."""


def versions(model: Path) -> Iterator[dict[str, Tensor]]:
    """The weights, a little larger each time."""
    tensors = load_file(model / "model.safetensors")
    for _ in iter(int, 1):
        tensors = {name: tensor * 1.001 for name, tensor in tensors.items()}
        yield tensors


def bucket(tensors: dict[str, Tensor]) -> Tensors:
    return [(name, "whole", tensor) for name, tensor in tensors.items()]


@torch.no_grad()
def probe_of(model: Any, tensors: dict[str, Tensor]) -> Probe:
    model.load_state_dict(tensors)
    ids = torch.as_tensor(TOKENS, dtype=torch.long)[None]
    logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return Probe(tokens=TOKENS, logp=np.concatenate([[0.0], logp.numpy()]).astype(np.float32))


@contextmanager
def ours(model: Path, *, proven: bool) -> Generator[Run]:
    """Rank 0's outbox and a rollout worker, which in a run are two processes."""
    worker, outbox = RolloutWorker(stage_for(model), "cpu", 0), Outbox(MemoryStore(), deltas=False)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    coming = enumerate((tensors, probe_of(policy, tensors)) for tensors in versions(model))
    with asyncio.Runner() as runner:
        runner.run(worker.start())
        following = list(islice(coming, IN_A_ROW))

        def run() -> Callable[[], Outcome]:
            for version, (tensors, probe) in following:
                bundle = outbox.send([bucket(tensors)], version=version, probe=probe)
                runner.run(worker.load(bundle) if proven else worker._ready.load(worker._inbox.take(bundle)))
                outbox.release(version)

            def describe() -> Outcome:
                following[:] = islice(coming, IN_A_ROW)
                return {"logp": runner.run(worker.score([TOKENS]))[0]}

            return describe

        try:
            yield run
        finally:
            runner.run(worker.close())


@contextmanager
def bare(model: Path) -> Generator[Run]:
    """vLLM's synchronous front door in one process, and its reload."""
    os.environ.update({**CPU_ENVIRONMENT, **QUIET_ENVIRONMENT})
    # vLLM reads the environment when it is imported.
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    llm = LLM(**raw_options(stage_for(model)))
    coming = versions(model)
    following = list(islice(coming, IN_A_ROW))

    def run() -> Callable[[], Outcome]:
        for tensors in following:
            named = iter(tensors.items())
            options: dict[str, Any] = {"weights_iterator": named, "is_checkpoint_format": True}
            llm.collective_rpc("reload_weights", kwargs=options)

        def describe() -> Outcome:
            following[:] = islice(coming, IN_A_ROW)
            prompt: Any = {"prompt_token_ids": TOKENS.tolist()}
            sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)
            listed: Any = llm.generate([prompt], sampling, use_tqdm=False)[0].prompt_logprobs
            chosen = [at[t].logprob for at, t in zip(listed[1:], TOKENS[1:].tolist(), strict=True)]
            return {"logp": np.array([0.0, *chosen], np.float32)}

        return describe

    yield run


@contextmanager
def disturbed(model: Path, *, syncs: int) -> Generator[Run]:
    """A job of the rollout benchmark, with new weights every now and then in its middle."""
    worker, outbox = RolloutWorker(fitting(model), "cpu", 0), Outbox(MemoryStore(), deltas=False)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tensors = load_file(model / "model.safetensors")
    probe = probe_of(policy, tensors)

    async def job() -> int:
        generating = [asyncio.create_task(worker.generate(draw, SAMPLING)) for draw in draws()]
        for version in range(syncs):
            await asyncio.sleep(0.2)
            await worker.load(outbox.send([bucket(tensors)], version=version, probe=probe))
            outbox.release(version)
        groups = await asyncio.gather(*generating)
        return sum(rollout.tokens.size for group in groups for rollout in group.rollouts)

    with asyncio.Runner() as runner:
        runner.run(worker.start())

        def run() -> Callable[[], Outcome]:
            tokens = runner.run(job())
            return lambda: {"tokens": np.array([tokens])}

        try:
            yield run
        finally:
            runner.run(worker.close())


def reload_rows(model: Path, pairs: int) -> list[Row]:
    """CPU time of a sync, and of its proof, over that of a reload."""
    sides = {
        "bare": (bare, model),
        "ours": (partial(ours, proven=False), model),
        "proven": (partial(ours, proven=True), model),
    }
    with started(sides) as running:
        found = in_turns(running, rounds=pairs)
    for side in ("ours", "proven"):
        must_agree(found["bare"], found[side], tolerance={"logp": 1e-3})
    reload, served, proven = (found[side].seconds for side in sides)
    reload_ms = sum(reload) / (2 * pairs * IN_A_ROW) * 1e3
    what = f"sync over vLLM's reload, CPU time, until served (reload {reload_ms:.0f} ms)"
    return [
        Row(what=what, ratios=_over(served, reload), target=RELOAD, at_most=True),
        Row(what="the same, proof included", ratios=_over(proven, reload), target=PROVEN, at_most=True),
    ]


def lost_row(model: Path, pairs: int) -> Row:
    """CPU time that a sync adds to a job, over that of the job: its share if each step had one."""
    silence_the_end(model)
    sides = {
        "calm": (partial(disturbed, syncs=0), model),
        "disturbed": (partial(disturbed, syncs=SYNCS), model),
    }
    with started(sides) as running:
        found = in_turns(running, rounds=pairs)
    must_agree(found["calm"], found["disturbed"], tolerance={"tokens": 0})
    calm, disturbed_s = found["calm"].seconds, found["disturbed"].seconds
    lost = [(with_syncs / without - 1) / SYNCS for with_syncs, without in zip(disturbed_s, calm, strict=True)]
    tokens = int(found["calm"].outcomes[0]["tokens"][0])
    what = f"CPU time lost to a sync over a step of {tokens:,} tokens ({sum(calm) / (2 * pairs):.1f} s)"
    return Row(what=what, ratios=lost, target=LOST, at_most=True)


def _over(ours: list[float], theirs: list[float]) -> list[float]:
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def copy_row(tensors: dict[str, Tensor], pairs: int) -> Row:
    """CPU time to write all bytes where engines map them and to read every page, over a copy of the bytes."""
    outbox = Outbox(MemoryStore(), deltas=False)
    receiver = Receiver(Path(), dtype="float32", device=torch.device("cpu"))
    probe = Probe(tokens=TOKENS, logp=np.zeros(TOKENS.size, np.float32))
    source = np.concatenate([tensor.reshape(-1).view(torch.uint8).numpy() for tensor in tensors.values()])
    target = source.copy()

    def sent() -> None:
        bundle = outbox.send([bucket(tensors)], version=0, probe=probe)
        assert all(
            bool(torch.isfinite(tensor.view(-1)[::1024]).all()) for _, tensor in receiver.tensors(bundle)
        )
        outbox.release(0)

    def copied() -> None:
        np.copyto(target, source)

    ratios = [_ratio(sent, copied) for _ in range(pairs + 1)][1:]
    size = source.nbytes / 2**20
    return Row(
        what=f"transport over a copy of {size:.0f} MiB, CPU time", ratios=ratios, target=COPY, at_most=True
    )


def _ratio(ours: Callable[[], None], theirs: Callable[[], None]) -> float:
    spent = {ours: 0.0, theirs: 0.0}
    for work in (theirs, ours, ours, theirs) * 5:
        before = time.process_time()
        work()
        spent[work] += time.process_time() - before
    return spent[ours] / spent[theirs]


def delta_row(tensors: dict[str, Tensor], share: float) -> Row:
    """Bytes of the changes over three times their share of all bytes, and one in a hundred."""
    outbox = Outbox(MemoryStore(), deltas=True)
    probe = Probe(tokens=TOKENS, logp=np.zeros(TOKENS.size, np.float32))
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    full = outbox.send([bucket(half)], version=0, probe=probe)
    generator = torch.Generator().manual_seed(0)
    for tensor in half.values():
        tensor[torch.rand(tensor.shape, generator=generator) < share] += 1
    delta = outbox.send([bucket(half)], version=1, probe=probe)
    if abs(delta.changed - share) > 0.1 * share:
        raise WrongResultError(f"{share} of the values changed, and {delta.changed} were found.")
    allowed = 3 * delta.changed + 0.01
    what = f"delta bytes over 3 rho + 1 % of all, bfloat16, rho = {delta.changed:.4f}"
    return Row(what=what, ratios=[delta.size / full.size / allowed], target=1.0, at_most=True)


def rows(pairs: int) -> list[Row]:
    """The sync's ratios.

    Raises:
        WrongResultError: an engine serves other weights than vLLM's reload gives, or a change was missed.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        model = build_model(Path(folder))
        tensors = load_file(model / "model.safetensors")
        made = [copy_row(tensors, pairs), *(delta_row(tensors, share) for share in SHARES)]
        return [*reload_rows(model, pairs), *made, lost_row(model, pairs)]
