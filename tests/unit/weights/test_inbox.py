"""Whatever travels (all weights, what changed, adapters alone), what arrives is whole, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from llmrl.errors import WeightSyncError
from llmrl.weights.adapter import merged
from llmrl.weights.bundle import ORIGINAL, Mapped, Probe, WeightBundle
from llmrl.weights.folder import MANIFEST, FolderStore
from llmrl.weights.inbox import Inbox
from llmrl.weights.outbox import Outbox, Tensors
from llmrl.weights.parcel import tensor_of
from llmrl.weights.store import MemoryStore, Store

PROBE = Probe(tokens=np.array([1, 2], np.int32), logp=np.array([0, -1.7], np.float32))
SHAPES = {"embed": (50, 40), "layer.0.q": (64, 40), "layer.0.norm": (40,), "scale": ()}

Weights = dict[str, Tensor]


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "weights")


def inbox(folder: Path = Path()) -> Inbox:
    return Inbox(folder, dtype="float32")


def random(dtype: torch.dtype, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def send(outbox: Outbox, weights: Weights, version: int) -> WeightBundle:
    """Two tensors in a bucket."""
    named = [(name, "whole", tensor) for name, tensor in weights.items()]
    return outbox.send([named[:2], named[2:]], version=version, probe=PROBE)  # type: ignore[list-item]


def way_of(bundle: WeightBundle) -> Mapped:
    assert isinstance(bundle.way, Mapped)
    return bundle.way


def taken(box: Inbox, bundle: WeightBundle, copy: NDArray[np.uint8] | None = None) -> Weights:
    complete = box.take(bundle, copy)
    arrays = way_of(complete).arrays(complete.specs)
    return {spec.name: tensor_of(spec, data).clone() for spec, data in arrays}


def bits(weights: Weights) -> dict[str, list[int]]:
    return {n: t.reshape(-1).view(torch.uint8).tolist() for n, t in weights.items()}


@torch.no_grad()
def moved(weights: Weights, share: float, seed: int) -> Weights:
    """About ``share`` of the values changed, some only in their sign or to what is not a number."""
    generator = torch.Generator().manual_seed(seed)
    new = {name: tensor.clone() for name, tensor in weights.items()}
    for tensor in new.values():
        hit = torch.rand(tensor.shape, generator=generator) < share
        tensor[hit] = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)[hit]
    if share:
        new["embed"][0, :3] = torch.tensor([-0.0, 0.0, float("nan")])
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_after_any_chain_of_changes_every_bit_is_that_of_a_full_push(
    store: Store, dtype: torch.dtype, seed: int
) -> None:
    outbox, box = Outbox(store, deltas=True), inbox()
    shares = np.random.default_rng(seed).choice([0.0, 0.001, 0.02, 0.3, 0.9, 1.0], 8)
    weights = random(dtype, seed)

    for version, share in enumerate(shares):
        weights = moved(weights, float(share), version)
        bundle = send(outbox, weights, version)
        assert bundle.base == (version - 1 if version else None)
        assert bundle.size <= sum(tensor.nbytes for tensor in weights.values())
        assert bits(taken(box, bundle)) == bits(weights)
        outbox.release(version)


def test_a_change_of_one_in_fifty_bfloat16_values_takes_three_times_that_share_of_the_bytes(
    store: Store,
) -> None:
    outbox, weights = Outbox(store, deltas=True), {"w": torch.zeros(1000, 100, dtype=torch.bfloat16)}
    full = send(outbox, weights, 0)
    changed = weights["w"].clone()
    changed.view(-1)[::50] = 1.0

    delta = send(outbox, {"w": changed}, 1)

    assert (full.size, full.changed) == (200_000, 1.0)
    # Each of 2,000 values travels with an index of 4 bytes.
    assert (delta.size, delta.changed) == (2_000 * 6, 0.02)


def test_weights_without_a_base_are_mapped_where_they_lie_and_never_copied() -> None:
    outbox, weights = Outbox(MemoryStore(), deltas=False), random(torch.float32)
    bundle = send(outbox, weights, 3)

    assert inbox().take(bundle).way == bundle.way


def test_bytes_that_came_along_stand_in_for_memory_of_another_machine() -> None:
    outbox, weights, box = Outbox(MemoryStore(), deltas=True), random(torch.float32), inbox()
    for version in range(3):
        weights = moved(weights, 0.05, version)
        there = send(outbox, weights, version)

        copy = there.copied()
        away = dataclasses.replace(there, way=Mapped(place=Path("/nowhere"), machine="other"))

        assert bits(taken(box, away, copy)) == bits(weights)


def test_a_change_of_a_version_that_is_not_there_is_refused_until_all_weights_come() -> None:
    outbox, weights, box = Outbox(MemoryStore(), deltas=True), random(torch.float32), inbox()
    bundles = [send(outbox, moved(weights, 0.1, version), version) for version in range(3)]
    taken(box, bundles[0])

    with pytest.raises(WeightSyncError, match="weights 2 were sent as changes of weights 1, but this engine"):
        box.take(bundles[2])
    with pytest.raises(WeightSyncError, match="holds none"):
        box.take(bundles[1])
    again = Outbox(MemoryStore(), deltas=True)
    assert bits(taken(box, send(again, weights, 3))) == bits(weights)


def test_weights_that_are_sent_again_are_not_applied_twice() -> None:
    outbox, weights, box = Outbox(MemoryStore(), deltas=True), random(torch.float32), inbox()
    taken(box, send(outbox, weights, 0))
    new = moved(weights, 0.1, 1)
    delta = send(outbox, new, 1)

    assert bits(taken(box, delta)) == bits(taken(box, delta)) == bits(new)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_alone_give_the_weights_that_merging_them_before_would_have_given(
    store: Store, dtype: str, tmp_path: Path
) -> None:
    base = random(torch.float32)
    # Older folders have such tensors, which transformers computes for itself.
    left_out = {"rotary.inv_freq": torch.ones(3), "mask": torch.ones(2, 2, dtype=torch.bool)}
    save_file(base | left_out, tmp_path / "model.safetensors")
    box, outbox = Inbox(tmp_path, dtype=dtype), Outbox(store, deltas=False, left_out=frozenset(left_out))
    own = getattr(torch, dtype)

    for version in range(3):
        generator = torch.Generator().manual_seed(version)
        down, up = torch.randn(4, 40, generator=generator), torch.randn(64, 4, generator=generator)
        factors = [("layer.0.q", "down", down.to(own)), ("layer.0.q", "up", up.to(own))]
        factors += [("layer.0.q", "scale", torch.tensor(12 / 7, dtype=torch.float64))]
        bundle = outbox.send([factors], version=version, probe=PROBE, base=ORIGINAL)  # type: ignore[list-item]

        # The rest is as the engine loaded it: a model may keep some tensors in float32.
        wanted = base | {"layer.0.q": base["layer.0.q"].to(own)}
        wanted["layer.0.q"] = merged(wanted["layer.0.q"], down=down.to(own), up=up.to(own), scale=12 / 7)
        assert bundle.size == (4 * 40 + 64 * 4) * own.itemsize + 8
        assert bits(taken(box, bundle)) == bits(wanted)


def damage(place: Path) -> None:
    path = next(place.glob("*.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def cut(place: Path) -> None:
    path = next(place.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage, r"weights-00000.safetensors is not what manifest.json says .*; send the weights again"),
        (cut, r"is not what manifest.json says"),
        (
            lambda place: (place / MANIFEST).unlink(),
            r"no readable manifest.json .*; is weights.folder",
        ),
    ],
)
def test_a_folder_that_is_not_as_it_was_sealed_is_refused(
    harm: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    bundle = send(Outbox(FolderStore(tmp_path), deltas=False), random(torch.float32), 7)
    harm(way_of(bundle).place)

    with pytest.raises(WeightSyncError, match=said):
        inbox().take(bundle)


def test_weights_that_another_run_left_in_the_folder_are_refused(tmp_path: Path) -> None:
    outbox, other = (Outbox(FolderStore(tmp_path), deltas=False) for _ in range(2))
    bundle = send(outbox, random(torch.float32), 1)
    probe = dataclasses.replace(PROBE, logp=PROBE.logp - 1)
    other.send([[("w", "whole", torch.ones(2))]], version=1, probe=probe)

    with pytest.raises(WeightSyncError, match=r"has other weights than the policy sent; .*give each its own"):
        inbox().take(bundle)


def test_a_version_has_its_name_in_the_folder_only_when_it_is_complete(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    outbox = Outbox(store, deltas=False)
    send(outbox, random(torch.float32), 1)

    def interrupted() -> Iterator[Tensors]:
        yield [("a", "whole", torch.ones(3))]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox.send(interrupted(), version=2, probe=PROBE)

    assert (tmp_path / "000002.unfinished" / "weights-00000.safetensors").exists()
    complete = [path.name for path in tmp_path.iterdir() if not path.name.endswith(".unfinished")]
    assert complete == ["000001"]
    manifest = json.loads((tmp_path / "000001" / MANIFEST).read_text())
    assert (manifest["version"], len(manifest["files"])) == (1, 2)
    outbox.release(1)
    assert not (tmp_path / "000001").exists()
