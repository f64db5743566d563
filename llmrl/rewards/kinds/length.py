"""Rewards for the length of a response, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import reward


@reward("overlong")
@dataclass(frozen=True, slots=True, kw_only=True)
class Overlong:
    """DAPO's soft penalty: 0, then falling to -1 over the last ``buffer_tokens`` before ``max_tokens``.

    Yu et al. 2025, "DAPO", arXiv:2503.14476, equation 13. Give it weight 1 and let no filter read it.
    """

    max_tokens: int | None = None
    """Length from which on the penalty is -1, including the buffer; by default the response's budget."""
    buffer_tokens: int | None = None
    """Length of the slope; by default a fifth of ``max_tokens``, as in the paper."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            self._slope(self.max_tokens)
        elif self.buffer_tokens is not None and self.buffer_tokens < 1:
            raise ValueError(f"buffer_tokens must be at least 1, got {self.buffer_tokens}")

    def __call__(self, sample: Sample) -> float:
        most = sample.max_tokens if self.max_tokens is None else self.max_tokens
        slope = self._slope(most)
        return -min(max(sample.tokens - (most - slope), 0) / slope, 1.0)

    def _slope(self, most: int) -> int:
        """Length of the slope if a response has at most ``most`` tokens."""
        slope = max(1, most // 5) if self.buffer_tokens is None else self.buffer_tokens
        if not 0 < slope <= most:
            raise ValueError(f"buffer_tokens must lie in 1 .. max_tokens = {most}, got {slope}")
        return slope


@reward("length")
@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """A linear budget: 1 up to ``free_tokens``, then falling to 0 at ``max_tokens``."""

    max_tokens: int
    """Length from which on the score is 0."""
    free_tokens: int = 0
    """Length up to which the score is 1."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.free_tokens < self.max_tokens:
            raise ValueError(
                f"free_tokens must lie in 0 .. max_tokens - 1 = {self.max_tokens - 1}, got {self.free_tokens}"
            )

    def __call__(self, sample: Sample) -> float:
        left = (self.max_tokens - sample.tokens) / (self.max_tokens - self.free_tokens)
        return min(max(left, 0.0), 1.0)
