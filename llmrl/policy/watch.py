"""Watches the gradient where all of it comes together: at the output of the input embedding."""

from __future__ import annotations

from torch import Tensor, nn


class GradientWatch:
    """Knows whether every gradient since it was last asked was finite.

    What is not finite anywhere above spreads down to the embedding, so one small tensor tells; the sharded
    gradients themselves are out of reach until DeepSpeed has already used them.
    """

    def __init__(self, embedding: nn.Module) -> None:
        self._finite = True
        embedding.register_forward_hook(self._attach)

    def take(self) -> bool:
        """Whether all was finite, and start anew."""
        finite, self._finite = self._finite, True
        return finite

    def _attach(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._see)

    def _see(self, gradient: Tensor) -> None:
        self._finite = self._finite and bool(gradient.isfinite().all())
