"""What every test shares: a quiet, offline environment, the shared data, and the word about missing GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Set before torch, Ray or vLLM is imported; the processes that tests start inherit it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # spinning OpenMP threads on shared cores cost more than they bring
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


def has_gpu() -> bool:
    """Whether the driver lists an NVIDIA GPU; asks no torch, so that collecting stays fast."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say so."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here (nvidia-smi -L lists none)"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data and vectors that lies beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data: {SHARED} does not exist")
    return SHARED
