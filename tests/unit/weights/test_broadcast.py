"""Weights that are broadcast arrive whole, bit for bit, or not at all; whoever is left alone is told why."""

from __future__ import annotations

import dataclasses
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llmrl.errors import DisconnectedError
from llmrl.weights.adapter import merged
from llmrl.weights.backend import heard, told
from llmrl.weights.broadcast import BroadcastStore
from llmrl.weights.bundle import ORIGINAL, Broadcast, Probe, WeightBundle
from llmrl.weights.group import Group, hang_up
from llmrl.weights.outbox import Outbox
from llmrl.weights.packed import Packed
from llmrl.weights.parcel import parcel
from llmrl.weights.receiver import Receiver
from llmrl.weights.seat import Seat

CPU = torch.device("cpu")
PROBE = Probe(tokens=np.array([1, 2], np.int32), logp=np.array([0, -1.7], np.float32))
SHAPES = {"embed": (50, 40), "layer.0.q": (64, 40), "layer.0.norm": (40,), "scale": ()}

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def seats(size: int, deadline_s: float = 60) -> tuple[list[Seat], int]:
    """Places in a new group, and the socket at which rank 0 listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    listed = [Seat(address=address, rank=rank, size=size, deadline_s=deadline_s) for rank in range(size)]
    return listed, listener.detach()


def joined(
    threads: ThreadPoolExecutor,
    folder: Path,
    *,
    receivers: int,
    deltas: bool,
    left_out: frozenset[str] = frozenset(),
) -> tuple[Outbox, list[Receiver]]:
    (first, *others), listener = seats(1 + receivers)
    boxes = [Receiver(folder, dtype="float32", device=CPU) for _ in others]
    joining = [threads.submit(box.join, seat) for box, seat in zip(boxes, others, strict=True)]
    store = BroadcastStore(Group(first, device=CPU, listener=listener), device=CPU)
    for one in joining:
        one.result(60)
    return Outbox(store, deltas=deltas, left_out=left_out), boxes


def random(dtype: torch.dtype) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def send(outbox: Outbox, weights: Weights, version: int) -> WeightBundle:
    """Two tensors in a bucket."""
    named = [(name, "whole", tensor) for name, tensor in weights.items()]
    return outbox.send([named[:2], named[2:]], version=version, probe=PROBE)  # type: ignore[list-item]


def bits(named: Iterator[tuple[str, Tensor]]) -> dict[str, list[int]]:
    return {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in named}


def received(threads: ThreadPoolExecutor, boxes: list[Receiver], bundle: WeightBundle) -> list[object]:
    coming = [threads.submit(lambda box=box: bits(box.tensors(bundle))) for box in boxes]
    return [one.result(60) for one in coming]


@pytest.mark.parametrize("deltas", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_receiver_gets_every_bit_though_the_policy_has_gone_on(
    threads: ThreadPoolExecutor, dtype: torch.dtype, deltas: bool
) -> None:
    outbox, boxes = joined(threads, Path(), receivers=3, deltas=deltas)
    weights = random(dtype)
    for version in range(3):
        wanted = bits(iter(weights.items()))

        bundle = send(outbox, weights, version)
        for tensor in weights.values():
            tensor.view(-1)[::7] += 1

        assert (bundle.way, bundle.base) == (Broadcast(), version - 1 if deltas and version else None)
        assert received(threads, boxes, bundle) == [wanted] * 3
        outbox.release(version)


def test_versions_that_wait_for_their_engines_arrive_in_order(threads: ThreadPoolExecutor) -> None:
    outbox, boxes = joined(threads, Path(), receivers=2, deltas=False)
    bundles = [send(outbox, {"w": torch.full((5,), float(version))}, version) for version in range(3)]

    arrived = [received(threads, boxes, bundle) for bundle in bundles]

    assert arrived == [[bits(iter([("w", torch.full((5,), float(v)))]))] * 2 for v in range(3)]


def test_adapters_alone_are_added_to_the_model_folder_where_they_arrive(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    base, left_out = random(torch.float32), {"mask": torch.ones(2, dtype=torch.bool)}
    save_file(base | left_out, tmp_path / "model.safetensors")
    outbox, boxes = joined(threads, tmp_path, receivers=2, deltas=False, left_out=frozenset(left_out))
    down, up, scale = torch.randn(4, 40), torch.randn(64, 4), torch.tensor(0.5, dtype=torch.float64)

    factors = [("layer.0.q", part, t) for part, t in (("down", down), ("up", up), ("scale", scale))]
    bundle = outbox.send([factors], version=0, probe=PROBE, base=ORIGINAL)  # type: ignore[list-item]

    q = merged(base["layer.0.q"], down=down, up=up, scale=0.5)
    heard_by_vllm = heard(**told(bundle))
    assert received(threads, boxes, heard_by_vllm) == [bits(iter((base | {"layer.0.q": q}).items()))] * 2


def test_a_bucket_is_written_over_when_nobody_needs_it_any_more() -> None:
    packed = Packed(CPU)
    parcels = [parcel(name, "whole", tensor) for name, tensor in random(torch.float32).items()]
    for version in (0, 1):
        packed.write(version, [parcels[:2], parcels[2:]])
    places = [[block.data_ptr() for block in packed.blocks(version)] for version in (0, 1)]

    packed.release(0)
    packed.write(2, [parcels[:2], parcels[2:]])

    assert len(set(places[0] + places[1])) == 4
    assert [block.data_ptr() for block in packed.blocks(2)] == places[0]


def groups(threads: ThreadPoolExecutor, size: int, deadline_s: float = 60) -> tuple[list[Group], Seat]:
    listed, listener = seats(size, deadline_s)
    joining = [
        threads.submit(Group, seat, device=CPU, listener=None if seat.rank else listener) for seat in listed
    ]
    return [one.result(60) for one in joining], listed[0]


def test_whoever_waits_for_a_member_that_does_not_come_gives_up_together_with_all_others(
    threads: ThreadPoolExecutor,
) -> None:
    (first, second, _), _ = groups(threads, 3, deadline_s=2.0)

    waiting = [threads.submit(member.meet) for member in (first, second)]

    for one in waiting:
        with pytest.raises(DisconnectedError, match=r"given up \(rank \d: the other members did not come"):
            one.result(30)


def test_those_who_wait_are_told_at_once_that_somebody_will_not_come(threads: ThreadPoolExecutor) -> None:
    (first, second, _), seat = groups(threads, 3)
    waiting = [threads.submit(member.meet) for member in (first, second)]
    began = time.monotonic()

    hang_up(seat.address, "engine-1 failed")

    for one in waiting:
        with pytest.raises(DisconnectedError, match=r"was given up \(engine-1 failed\)"):
            one.result(30)
    assert time.monotonic() - began < 30  # their deadline is a minute


MEMBER = """
import os, sys, torch
from llmrl.errors import DisconnectedError
from llmrl.weights.group import Group
from llmrl.weights.seat import Seat
address, rank, listener = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seat = Seat(address=address, rank=rank, size=3, deadline_s=60)
group = Group(seat, device=torch.device("cpu"), listener=listener if rank == 0 else None)
group.meet()
for turn in range(100):
    if rank == 2 and turn == 1:
        os._exit(9)
    try:
        group.broadcast(torch.zeros(1_000_000, dtype=torch.uint8))
    except DisconnectedError as error:
        print(error, flush=True)
        os._exit(0)
"""


def test_a_member_that_dies_in_the_middle_leaves_nobody_hanging() -> None:
    listed, listener = seats(3)

    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, seat.address, str(seat.rank), str(listener)],
            pass_fds=[listener],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seat in listed
    ]
    said = [member.communicate(timeout=60)[0] for member in members]

    assert [member.returncode for member in members] == [0, 0, 9]
    assert said[2] == ""
    for words in said[:2]:
        assert re.match(
            r"the group that weights are broadcast in was given up \(rank \d: .*Connection", words
        )


def test_rank_0_does_not_wait_for_engines_that_will_not_come(threads: ThreadPoolExecutor) -> None:
    (first, _), listener = seats(2)
    joining = threads.submit(Group, dataclasses.replace(first, rank=1), device=CPU)
    store = BroadcastStore(Group(first, device=CPU, listener=listener), device=CPU)
    joining.result(60)
    send(Outbox(store, deltas=False), random(torch.float32), 0)

    hang_up(first.address, "engine-0 failed")

    threads.submit(store.release, 0).result(30)  # what waited for the engines has ended
