"""What must hold before and after a sync: the same tensors on both sides, and the same logprobs.

A reload can succeed, every tensor can read back equal, and the engine can still compute with old
weights (a tied head that was packed on its own). Only the logprobs tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import WeightSyncError
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.header import read_headers

Stored = Mapping[str, tuple[int, ...]]

TOLERANCE = {"float32": 3e-4, "bfloat16": 0.5}
"""Mean difference in nats that rounding explains, by dtype. In bfloat16 single tokens are off by more, above
all such improbable ones as a probe has. Weights that were mixed up or cut are off by whole nats."""


def stored_tensors(folder: Path) -> Stored:
    """Name and shape of every tensor in a model folder, read from the safetensors headers alone.

    Raises:
        ModelError: there is no such file, or one of them is cut short or has no readable header.
    """
    return {name: spec.shape for name, spec in read_headers(folder).items()}


def check_names(bundle: WeightBundle, stored: Stored) -> None:
    """Refuse a bundle that would leave the engine with some old, some unknown or some cut tensors.

    Raises:
        WeightSyncError: a tensor is missing, unknown or of another shape.
    """
    sent = {spec.name: spec for spec in bundle.specs}
    missing = sorted(stored.keys() - sent.keys() - bundle.left_out)
    if missing and bundle.base is None:
        raise WeightSyncError(
            f"weights {bundle.version}: {len(missing)} tensors are missing, first {missing[0]}."
        )
    if unknown := sorted(sent.keys() - stored.keys()):
        raise WeightSyncError(f"weights {bundle.version}: the engine's model has no tensor {unknown[0]}.")
    for name, spec in sent.items():
        if spec.part == "whole" and spec.shape != stored[name]:
            raise WeightSyncError(
                f"weights {bundle.version}: {name} was sent with shape {list(spec.shape)}, "
                f"the engine's has {list(stored[name])}."
            )


def check_probe(bundle: WeightBundle, logp: NDArray[np.float32], *, dtype: str) -> None:
    """Compare the engine's logprobs of the probe with the policy's.

    Args:
        bundle: the bundle that was sent.
        logp: [L] the engine's logprobs of ``bundle.probe.tokens``, in nats.
        dtype: dtype of the engine's forward pass; decides how much rounding is tolerated.

    Raises:
        WeightSyncError: they differ by more than rounding explains.
    """
    difference = float(np.abs(logp - bundle.probe.logp)[1:].mean())
    if not math.isfinite(difference) or difference > TOLERANCE[dtype]:
        raise WeightSyncError(
            f"weights {bundle.version}: after the sync the engine's logprobs of the probe differ from the "
            f"policy's by {difference:.3g} nats on average (limit {TOLERANCE[dtype]:g} for {dtype}), "
            "so it does not serve these weights."
        )
