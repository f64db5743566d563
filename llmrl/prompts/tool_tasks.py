"""Tasks for tools: problems too hard for a small model alone, and a teacher's calls that solve them."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tasks import MAX_DIGITS, Problem, task


@task("products")
@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Multiply with a calculator: ``37*48=`` is met by the call ``[37*48]``, its result by ``#1776``."""

    digits: int = 2
    """Digits of each number."""
    guesses: float = 0.0
    """Share of the demonstrations that answer directly without a call, and are wrong."""

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= MAX_DIGITS:
            raise ValueError(f"digits must lie between 1 and {MAX_DIGITS}, got {self.digits}")
        if not 0 <= self.guesses <= 1:
            raise ValueError(f"guesses must lie between 0 and 1, got {self.guesses}")

    @property
    def characters(self) -> str:
        return "0123456789*=[]#"

    @property
    def size(self) -> int:
        return self._numbers**2

    def make(self, number: int) -> Problem:
        left, right = (10 ** (self.digits - 1) + part for part in divmod(number, self._numbers))
        product, asked = str(left * right), f"{left}*{right}"
        chance, wrong = divmod(derive_seed("guess", number), 10)
        if chance % 1_000_000 < self.guesses * 1_000_000:
            return Problem(prompt=f"{asked}=", answer=product, response=f"#{left * right + wrong + 1}")
        return Problem(
            prompt=f"{asked}=", answer=product, response=f"[{asked}]", then=(product, f"#{product}")
        )

    @property
    def _numbers(self) -> int:
        """Number of integers with ``digits`` digits."""
        return 9 * 10 ** (self.digits - 1)
