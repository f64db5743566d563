"""Tasks that make pairs: a right working and a wrong one, labelled with a known share of errors."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tasks import DigitSum, Problem, digit_sum, task


@task("digit_sum_pairs")
@dataclass(frozen=True, slots=True, kw_only=True)
class DigitSumPairs:
    """The problems of ``digit_sum``, each with a right working and one with a slip in one of its steps."""

    digits_min: int = 4
    """Fewest digits of a number."""
    digits_max: int = 4
    """Most digits of a number."""
    flipped: float = 0.0
    """Share of the pairs whose labels are swapped, so that the chosen response is wrong."""

    def __post_init__(self) -> None:
        if self.digits_min < 2:
            raise ValueError(f"digits_min must be at least 2, so that a step can slip, got {self.digits_min}")
        if not 0 <= self.flipped <= 1:
            raise ValueError(f"flipped must lie between 0 and 1, got {self.flipped}")
        _ = self._right

    @property
    def characters(self) -> str:
        return self._right.characters

    @property
    def size(self) -> int:
        return self._right.size

    def make(self, number: int) -> Problem:
        right = self._right.make(number)
        text = right.prompt.removesuffix("=")
        place, by = divmod(derive_seed("pair", number), 2)
        slips = [0] * (len(text) - 1)
        slips[place % len(slips)] = by + 1
        pair = right.response, digit_sum(text, slips)
        swapped = derive_seed("flipped", number) % 1_000_000 < self.flipped * 1_000_000
        chosen, rejected = reversed(pair) if swapped else pair
        return Problem(prompt=right.prompt, answer=right.answer, response=chosen, rejected=rejected)

    @property
    def _right(self) -> DigitSum:
        return DigitSum(digits_min=self.digits_min, digits_max=self.digits_max)
