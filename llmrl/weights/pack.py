"""Trainer side of a weight sync: many tensors become one block of bytes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from llmrl.weights.bundle import Probe, TensorSpec, WeightBundle

ALIGNMENT = 64
"""Bytes; every tensor starts where any dtype may start, and on a cache line."""


def pack(tensors: Iterable[tuple[str, Tensor]], *, version: int, probe: Probe) -> WeightBundle:
    """Copy named tensors, wherever they live, into one bundle."""
    listed = [(name, tensor.detach()) for name, tensor in tensors]
    specs: list[TensorSpec] = []
    end = 0
    for name, tensor in listed:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name=name, shape=tuple(tensor.shape), dtype=dtype, start=start, stop=end))
    data = np.empty(end, dtype=np.uint8)
    block = torch.from_numpy(data)
    for spec, (_, tensor) in zip(specs, listed, strict=True):
        block[spec.start : spec.stop].copy_(tensor.contiguous().reshape(-1).view(torch.uint8))
    return WeightBundle(version=version, specs=tuple(specs), data=data, probe=probe)
