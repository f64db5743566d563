"""A checkpoint goes on with the random numbers that would have come next, on the device that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmrl.policy.generators import restore_generators, save_generators


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_that_was_saved_on_a_cpu_draws_on_from_there(tmp_path: Path, device: str) -> None:
    file = tmp_path / "rng-0.npz"
    with torch.random.fork_rng(devices=[]):
        save_generators(file, "cpu")
        drawn = torch.rand(3)

        restore_generators(file, device)

        assert torch.equal(torch.rand(3), drawn)
