"""Weights on their way: written once, mapped by another process, checked, proven."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmrl.errors import ModelError, WeightSyncError
from llmrl.weights.bundle import ALIGNMENT, Mapped, Probe, WeightBundle
from llmrl.weights.inbox import Contents
from llmrl.weights.memory import machine, mapped
from llmrl.weights.outbox import Outbox
from llmrl.weights.parcel import tensor_of
from llmrl.weights.proof import check_names, check_probe, stored_tensors
from llmrl.weights.receiver import Receiver
from llmrl.weights.store import MemoryStore

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c.scale": torch.tensor(3.0),
}
PROBE = Probe(tokens=np.array([1, 2, 3], np.int32), logp=np.array([0, -1, -2], np.float32))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(MemoryStore(), deltas=False)


def send(outbox: Outbox, tensors: dict[str, torch.Tensor], version: int = 4) -> WeightBundle:
    return outbox.send([[(n, "whole", t)] for n, t in tensors.items()], version=version, probe=PROBE)


def way_of(bundle: WeightBundle) -> Mapped:
    assert isinstance(bundle.way, Mapped)
    return bundle.way


def contents(bundle: WeightBundle) -> Contents:
    return way_of(bundle).arrays(bundle.specs)


def test_every_tensor_is_read_back_bit_for_bit_from_an_aligned_place(outbox: Outbox) -> None:
    bundle = send(outbox, TENSORS)

    assert bundle.size == 24 + 4 + 4
    for spec, data in contents(bundle):
        assert torch.equal(tensor_of(spec, data), TENSORS[spec.name])
        assert spec.start % ALIGNMENT == 0


def test_a_bundle_is_a_copy_that_later_steps_do_not_change(outbox: Outbox) -> None:
    weight = torch.ones(3)
    bundle = send(outbox, {"w": weight})
    weight.add_(1)

    assert [data.view(np.float32).tolist() for _, data in contents(bundle)] == [[1.0, 1.0, 1.0]]


def test_versions_under_way_are_apart_and_a_released_one_gives_its_memory_to_the_next(outbox: Outbox) -> None:
    first, second = (send(outbox, {"w": torch.full((3,), float(v))}, v) for v in (1, 2))
    assert [float(data.view(np.float32)[0]) for one in (first, second) for _, data in contents(one)] == [1, 2]

    outbox.release(1)
    third = send(outbox, {"w": torch.full((3,), 3.0)}, 3)

    assert (third.way == first.way, third.way == second.way) == (True, False)
    assert [data.view(np.float32).tolist() for _, data in contents(second)] == [[2.0, 2.0, 2.0]]


def test_memory_is_mapped_once_and_shows_every_version(outbox: Outbox) -> None:
    receiver = Receiver(Path(), dtype="float32", device=torch.device("cpu"))

    def received(*values: float) -> tuple[int, list[float]]:
        bundle = send(outbox, {"w": torch.tensor(values)})
        ((_, tensor),) = receiver.tensors(bundle)
        outbox.release(bundle.version)
        return tensor.data_ptr(), tensor.tolist()

    where, first = received(1.0, 2.0)
    again, second = received(3.0, 4.0)
    _, grown = received(*range(9000))

    assert (first, second, grown) == ([1, 2], [3, 4], list(range(9000)))
    assert where == again


def test_another_process_maps_the_very_bytes_and_they_are_gone_with_their_owner() -> None:
    outbox = Outbox(MemoryStore(), deltas=False)
    place = way_of(send(outbox, TENSORS)).place
    read = (
        "import sys; from pathlib import Path; from llmrl.weights.memory import machine, mapped; "
        "print(machine()); print(int(mapped(Path(sys.argv[1])).sum()))"
    )

    out = subprocess.run(
        [sys.executable, "-c", read, str(place)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert out.stdout.split() == [machine(), str(int(mapped(place).sum()))]
    del outbox
    assert not place.exists()


def test_the_names_of_a_model_folder_come_from_its_headers(tmp_path: Path, outbox: Outbox) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")

    assert stored_tensors(tmp_path) == {"a.weight": (2, 3), "b.weight": (2,), "c.scale": ()}
    check_names(send(outbox, TENSORS), stored_tensors(tmp_path))


def test_files_that_transformers_does_not_read_are_no_part_of_a_model_folder(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file({"layers.0.wq.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert set(stored_tensors(tmp_path)) == set(TENSORS)

    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(TENSORS, "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(stored_tensors(tmp_path)) == set(TENSORS)


def test_what_the_policy_does_not_have_is_not_missed_and_all_else_is() -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()} | {"tied": (2, 3)}
    outbox = Outbox(MemoryStore(), deltas=False, left_out=frozenset({"tied"}))

    check_names(send(outbox, TENSORS), stored)
    with pytest.raises(WeightSyncError, match=r"1 tensors are missing, first b\.weight"):
        check_names(send(outbox, {name: TENSORS[name] for name in ("a.weight", "c.scale")}), stored)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \*\.safetensors file; save the model with save_pretrained"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"a.weight": (2, 3), "b.weight": (2,), "c.scale": (), "d": (1,)}, "1 tensors are missing, first d"),
        ({"a.weight": (2, 3), "b.weight": (2,)}, "has no tensor c.scale"),
        ({"a.weight": (3, 2), "b.weight": (2,), "c.scale": ()}, r"shape \[2, 3\], the engine's has \[3, 2\]"),
    ],
)
def test_a_bundle_that_would_leave_old_or_unknown_tensors_is_refused(
    stored: dict[str, tuple[int, ...]], words: str, outbox: Outbox
) -> None:
    with pytest.raises(WeightSyncError, match=words):
        check_names(send(outbox, TENSORS), stored)


def test_the_probe_forgives_rounding_and_nothing_else(outbox: Outbox) -> None:
    bundle = send(outbox, TENSORS)

    check_probe(bundle, PROBE.logp + np.float32(1e-5), dtype="float32")
    with pytest.raises(WeightSyncError, match=r"differ from the policy's by 0\.025 nats on average"):
        check_probe(bundle, PROBE.logp + np.array([0, 0, 0.05], np.float32), dtype="float32")
    with pytest.raises(WeightSyncError, match="by nan"):
        check_probe(bundle, PROBE.logp * np.float32(np.nan), dtype="bfloat16")


def test_records_stay_as_they_were_made(outbox: Outbox) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        send(outbox, TENSORS).version = 5  # type: ignore[misc]
