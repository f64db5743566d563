"""The opponent: how it comes from the policy and the frozen reference, in logits or in weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def geometric_mixture(policy: Tensor, reference: Tensor, *, weight: float) -> Tensor:
    """Logits of the distribution proportional to ``policy ** (1 - weight) * reference ** weight``.

    Args:
        policy: [..., V] logits, or log-probabilities; neither need be normalised.
        reference: [..., V], as ``policy``.
        weight: of the reference; 0 is self-play, 1 the reference alone.
    Source: Munos et al. 2023, arXiv:2312.00886, section 6, token by token.
    """
    return weight * reference + (1 - weight) * policy


def move_average(average: Tensor, newest: Tensor, *, decay: float, versions: int = 1) -> None:
    """Draw ``average`` towards ``newest`` in place, as if it had been the newest for so many ``versions``.

    Each version leaves ``decay`` of the average as it was. A version that comes again (0 or fewer versions
    later) changes nothing, and an engine that starts late goes the whole way at once.
    """
    average.lerp_(newest.to(average.dtype), 1 - decay ** max(0, versions))
