"""The random generators that a forward pass may draw from, and their states in a file of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Access = tuple[Callable[[], Tensor], Callable[[Tensor], None]]
"""Functions that read and write a generator's state."""


def save_generators(file: Path, device: str) -> None:
    """Write the state of each generator of a process that computes on ``device``."""
    states = {name: get().numpy() for name, (get, _) in _generators(device).items()}
    np.savez(file, allow_pickle=False, **states)


def restore_generators(file: Path, device: str) -> None:
    """Restore the states in ``file``; one saved on a CPU has none for a GPU."""
    with np.load(file, allow_pickle=False) as states:
        for name, (_, put) in _generators(device).items():
            if name in states:
                put(torch.from_numpy(states[name]))


def _generators(device: str) -> dict[str, Access]:
    cpu: dict[str, Access] = {"cpu": (torch.get_rng_state, torch.set_rng_state)}
    return cpu | {"cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state)} if device == "cuda" else cpu
