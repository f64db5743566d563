"""R5: weights from a trainer's process to an engine's on one GPU, as packed buckets that it opens.

The engine's process copies every tensor out of the trainer's memory, as a loader does. Peer, in the same run:
torch's copy of the same bytes on the device. On a CPU tiny tensors go through the memory of the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch import multiprocessing as mp

from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.device import DeviceStore
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.receiver import Receiver
from llmrl.weights.store import MemoryStore, Store
from tests.gpu.finding import Row, Sizes, timed

PROBE = Probe(tokens=np.empty(0, np.int32), logp=np.empty(0, np.float32))
BUCKET = 2**28
"""Bytes, as ``weights.bucket_mib`` has it by default."""
MODELS = {"0.5B": (494_000_000, 3.0), "7B": (7_600_000_000, 1.3)}
"""Parameters, and most that a sync may take of the time of the copy."""
DEADLINE_S = 120


def sync_rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Whether every bit arrives, and on a GPU how long it takes."""
    on_gpu = device.type == "cuda"
    models = MODELS if on_gpu else {"tiny": (10_000, 0.0)}
    for name, (parameters, limit) in models.items():
        weights = _weights(parameters, sizes.hidden, device)
        store: Store = DeviceStore(device) if on_gpu else MemoryStore()
        wrong, seconds = _synced(weights, store, device)
        yield Row(what=f"sync between processes, {name}: tensors that arrive changed", got=wrong, limit=0)
        if on_gpu:
            bare = _copied(list(weights.values()))
            what = f"sync between processes, {name}, over a copy on the device ({bare * 1e3:.1f} ms)"
            yield Row(what=what, got=seconds / bare, limit=limit)


def _copied(tensors: list[Tensor]) -> float:
    """The best of five times."""
    copies = [torch.empty_like(tensor) for tensor in tensors]

    def copy() -> None:
        for target, source in zip(copies, tensors, strict=True):
            target.copy_(source)

    return min(timed(copy) for _ in range(5))


def _weights(parameters: int, hidden: int, device: torch.device) -> dict[str, Tensor]:
    """Matrices of a seventh million of elements and more, in bfloat16."""
    rows = 4 * hidden
    count = max(2, parameters // (rows * 4 * hidden))
    shape = (rows, 4 * hidden)
    return {f"w.{i}": torch.randn(shape, device=device, dtype=torch.bfloat16) for i in range(count)}


def _buckets(weights: dict[str, Tensor]) -> Iterator[Tensors]:
    each = max(1, BUCKET // next(iter(weights.values())).nbytes)
    named: Tensors = [(name, "whole", tensor) for name, tensor in weights.items()]
    for first in range(0, len(named), each):
        yield named[first : first + each]


def _synced(weights: dict[str, Tensor], store: Store, device: torch.device) -> tuple[float, float]:
    """Tensors that arrive changed, and the best of three times from the step's end to the loaded weights."""
    ours, theirs = mp.Pipe()
    engine = mp.get_context("spawn").Process(target=_engine, args=(theirs, device), daemon=True)
    engine.start()
    _answer(ours)
    outbox, wrong = Outbox(store, deltas=False), 0.0
    spent: list[float] = []
    for version in range(4):
        for tensor in weights.values():
            tensor.mul_(1.01)
        if device.type == "cuda":
            torch.cuda.synchronize()

        def sync(version: int = version) -> None:
            ours.send(outbox.send(_buckets(weights), version=version, probe=PROBE))
            _answer(ours)

        spent.append(_seconds(sync))
        ours.send("sums")
        wrong += sum(_sum(weights[name]) != told for name, told in _answer(ours).items())
        outbox.release(version)
    ours.close()
    engine.join(30)
    return wrong, min(spent[1:])


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()  # both sides wait for their device before they answer
    return time.perf_counter() - began


def _engine(pipe: Connection, device: torch.device) -> None:
    """Copies what comes into weights of its own, and says what it holds."""
    receiver, held = Receiver(Path(), dtype="bfloat16", device=device), dict[str, Tensor]()
    pipe.send("ready")
    while (asked := _asked(pipe)) is not None:
        if isinstance(asked, str):
            pipe.send({name: _sum(tensor) for name, tensor in held.items()})
            continue
        for name, tensor in receiver.tensors(asked):
            held.setdefault(name, torch.empty_like(tensor, device=device)).copy_(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        pipe.send("loaded")


def _asked(pipe: Connection) -> WeightBundle | str | None:
    try:
        return pipe.recv()
    except EOFError:
        return None


def _answer(pipe: Connection) -> dict[str, int]:
    if not pipe.poll(DEADLINE_S):
        raise TimeoutError(f"the engine's process did not answer within {DEADLINE_S} s")
    return pipe.recv()


def _sum(tensor: Tensor) -> int:
    """Of the bits; another order of equal bits does not happen."""
    return int(tensor.view(torch.int16).sum(dtype=torch.int64))
