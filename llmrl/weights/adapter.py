"""A low-rank adapter and the weight that it changes, merged: the same sum on both sides of a sync."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def merged(base: Tensor, *, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """``base + scale * up @ down`` in float32, rounded once to the dtype of ``base``, which never changes."""
    return (base.float() + scale * (up.float() @ down.float())).to(base.dtype)
