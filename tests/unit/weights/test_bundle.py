"""Weights in one block: packed, checked, mapped by another process, proven."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmrl.errors import ModelError, WeightSyncError
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.pack import ALIGNMENT, pack
from llmrl.weights.proof import check_names, check_probe, stored_tensors
from llmrl.weights.shared_file import shared_file

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c.scale": torch.tensor(3.0),
}
PROBE = Probe(tokens=np.array([1, 2, 3], np.int32), logp=np.array([0, -1, -2], np.float32))


def bundle() -> WeightBundle:
    return pack(TENSORS.items(), version=4, probe=PROBE)


def test_every_tensor_is_read_back_bit_for_bit_from_an_aligned_place() -> None:
    packed = bundle()

    for spec in packed.specs:
        flat = torch.from_numpy(packed.data[spec.start : spec.stop])
        tensor = flat.view(getattr(torch, spec.dtype)).reshape(spec.shape)
        assert torch.equal(tensor, TENSORS[spec.name])
        assert spec.start % ALIGNMENT == 0


def test_a_bundle_is_a_copy_that_later_steps_do_not_change() -> None:
    weight = torch.ones(3)
    packed = pack([("w", weight)], version=0, probe=PROBE)
    weight.add_(1)

    assert packed.data.view(np.float32).tolist() == [1.0, 1.0, 1.0]


def test_another_process_maps_the_block_and_it_is_gone_afterwards() -> None:
    packed = bundle()
    read = "import sys; print(sum(open(sys.argv[1], 'rb').read()))"

    with shared_file(packed.data) as path:
        out = subprocess.run(
            [sys.executable, "-c", read, str(path)], capture_output=True, timeout=30, check=True
        )

    assert int(out.stdout) == int(packed.data.sum(dtype=np.int64))
    assert not path.exists()


def test_the_names_of_a_model_folder_come_from_its_headers(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")

    assert stored_tensors(tmp_path) == {"a.weight": (2, 3), "b.weight": (2,), "c.scale": ()}
    check_names(bundle(), stored_tensors(tmp_path))


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
    stored: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(WeightSyncError, match=words):
        check_names(bundle(), stored)


def test_the_probe_forgives_rounding_and_nothing_else() -> None:
    check_probe(bundle(), PROBE.logp + np.float32(1e-5), dtype="float32")
    with pytest.raises(WeightSyncError, match=r"differ from the policy's by 0\.05 nats"):
        check_probe(bundle(), PROBE.logp + np.array([0, 0, 0.05], np.float32), dtype="float32")
    with pytest.raises(WeightSyncError, match="by nan"):
        check_probe(bundle(), PROBE.logp * np.float32(np.nan), dtype="bfloat16")


def test_records_stay_as_they_were_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle().version = 5  # type: ignore[misc]
