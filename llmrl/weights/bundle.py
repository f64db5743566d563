"""Weights on their way from the policy to the engines, with the proof that they arrived."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Where one tensor lies in the bundle's bytes."""

    name: str
    """Name in the Hugging Face state dict."""
    shape: tuple[int, ...]
    dtype: str
    """``float32``, ``bfloat16``, ..."""
    start: int
    """Offset in bytes."""
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A few tokens and what the policy thinks of them: the proof that an engine serves its weights."""

    tokens: NDArray[np.int32]
    """[L] token ids."""
    logp: NDArray[np.float32]
    """[L] nats at temperature 1; the first is 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightBundle:
    """Every tensor of one weight version in one block of bytes."""

    version: int
    """Optimizer steps taken when these weights were made."""
    specs: tuple[TensorSpec, ...]
    data: NDArray[np.uint8]
    """All tensors end to end; crosses processes without a copy."""
    probe: Probe
