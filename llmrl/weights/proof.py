"""What must hold before and after a sync: the same tensors on both sides, and the same logprobs.

A reload can succeed, every tensor can read back equal, and the engine can still compute with old
weights (a tied head that was packed on its own). Only the logprobs tell.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import ModelError, WeightSyncError
from llmrl.weights.bundle import WeightBundle

LENGTH = struct.Struct("<Q")
"""Where a safetensors file begins: the bytes of its header."""

Stored = Mapping[str, tuple[int, ...]]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference in nats that rounding explains, by dtype; stale weights are off by much more."""


def stored_tensors(folder: Path) -> Stored:
    """Name and shape of every tensor in a model folder, read from the safetensors headers alone.

    Raises:
        ModelError: there is no such file, or one of them is cut short or has no readable header.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= _header(path)
    if not shapes:
        raise ModelError(f"{folder}: no *.safetensors file; save the model with save_pretrained.")
    return shapes


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH.size)
        length = LENGTH.unpack(first)[0] if len(first) == LENGTH.size else size
        text = file.read(length) if LENGTH.size + length <= size else b""
    try:
        entries: dict[str, Any] = json.loads(text)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = LENGTH.size + length + max(entry["data_offsets"][1] for entry in tensors.values())
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{path.name} in {path.parent} has no readable header; copy the file again."
        ) from None
    if end != size:
        raise ModelError(
            f"{path.name} in {path.parent} has {size} bytes, its header says {end}; copy the file again."
        )
    return shapes


def check_names(bundle: WeightBundle, stored: Stored) -> None:
    """Refuse a bundle that would leave the engine with some old, some unknown or some cut tensors.

    Raises:
        WeightSyncError: a tensor is missing, unknown or of another shape.
    """
    sent = {spec.name: spec.shape for spec in bundle.specs}
    if missing := sorted(stored.keys() - sent.keys()):
        raise WeightSyncError(
            f"weights {bundle.version}: {len(missing)} tensors are missing, first {missing[0]}."
        )
    if unknown := sorted(sent.keys() - stored.keys()):
        raise WeightSyncError(f"weights {bundle.version}: the engine's model has no tensor {unknown[0]}.")
    for name, shape in sent.items():
        if shape != stored[name]:
            raise WeightSyncError(
                f"weights {bundle.version}: {name} was sent with shape {list(shape)}, "
                f"the engine's has {list(stored[name])}."
            )


def check_probe(bundle: WeightBundle, logp: NDArray[np.float32], *, dtype: str) -> None:
    """Compare what the engine now thinks of the probe with what the policy thinks.

    Args:
        bundle: what was sent.
        logp: [L] nats, the engine's for ``bundle.probe.tokens``.
        dtype: of the engine's forward pass; decides how much rounding is forgiven.

    Raises:
        WeightSyncError: they differ by more than rounding explains.
    """
    difference = float(np.abs(logp - bundle.probe.logp).max(initial=0.0))
    if not math.isfinite(difference) or difference > TOLERANCE[dtype]:
        raise WeightSyncError(
            f"weights {bundle.version}: after the sync the engine's logprobs of the probe differ from the "
            f"policy's by {difference:.3g} nats (limit {TOLERANCE[dtype]:g} for {dtype}), "
            "so it does not serve these weights."
        )
