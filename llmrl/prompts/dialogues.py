"""Tasks of several turns: the beginnings of such conversations, and a teacher's part in them.

The other speaker's words in training are decided by the environment of the same name; those in the
demonstrations are some that it could have used.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tasks import MAX_DIGITS, Problem, slip, task


@task("running_sum")
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSum:
    """Keep a running total: ``37+5=`` is solved by ``42``, the reply ``+3=`` then by ``45``, and so on."""

    digits: int = 2
    """Digits of the first number; what is added always has one."""
    turns: int = 3
    """Answers in a demonstration."""
    slips: float = 0.0
    """Share of the answers that are wrong, for demonstrations of an imperfect teacher.

    Later answers build on them. The verifier's answer, that of the first turn, is always right.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= MAX_DIGITS:
            raise ValueError(f"digits must lie between 1 and {MAX_DIGITS}, got {self.digits}")
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, got {self.turns}")
        if not 0 <= self.slips <= 1:
            raise ValueError(f"slips must lie between 0 and 1, got {self.slips}")

    @property
    def characters(self) -> str:
        return "0123456789+="

    @property
    def size(self) -> int:
        return 9 * 10**self.digits

    def make(self, number: int) -> Problem:
        tens, digit = divmod(number, 10)
        first = total = 10 ** (self.digits - 1) + tens
        spoken = list[str]()
        for turn in range(self.turns):
            added = derive_seed("running_sum", number, turn) % 10 if turn else digit
            total += added + slip(self.slips, number, turn)
            spoken += [f"+{added}=", str(total)]
        return Problem(
            prompt=f"{first}+{digit}=", answer=str(first + digit), response=spoken[1], then=tuple(spoken[2:])
        )


@task("guess_number")
@dataclass(frozen=True, slots=True, kw_only=True)
class GuessNumber:
    """Find a number in a range: ``12-26=`` is met by a guess, a guess by ``+`` (higher) or ``-`` (lower).

    The teacher guesses at random among the numbers that are still possible; halving the range is better.
    """

    largest: int = 99
    """Largest number; the smallest is 0."""
    narrow: int = 8
    """Fewest numbers in a range."""
    wide: int = 15
    """Most numbers in a range; with ``n`` guesses all of ``2**n - 1`` can be found."""
    turns: int = 4
    """Most guesses in a demonstration."""

    def __post_init__(self) -> None:
        if not 2 <= self.narrow <= self.wide <= self.largest + 1:
            raise ValueError("narrow, wide and largest must satisfy 2 <= narrow <= wide <= largest + 1")
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, got {self.turns}")

    @property
    def characters(self) -> str:
        return "0123456789+-="

    @property
    def size(self) -> int:
        return (self.largest + 2 - self.wide) * (self.wide - self.narrow + 1)

    def make(self, number: int) -> Problem:
        low, more = divmod(number, self.wide - self.narrow + 1)
        high = low + self.narrow + more - 1
        response, *then = self._guesses(number, low, high)
        span = f"{low}-{high}"
        return Problem(prompt=f"{span}=", answer=span, response=response, then=tuple(then))

    def _guesses(self, number: int, low: int, high: int) -> list[str]:
        """The guesses and the replies to them, in turn, up to the right guess or the last."""
        secret, spoken = low + derive_seed("secret", number) % (high - low + 1), list[str]()
        for turn in range(self.turns):
            guess = low + derive_seed("guess", number, turn) % (high - low + 1)
            spoken += [str(guess), "+" if guess < secret else "-"]
            if guess == secret:
                break
            low, high = (guess + 1, high) if guess < secret else (low, guess - 1)
        return spoken[:-1]
