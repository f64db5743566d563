"""A game with one reward at its end: find a number, and learn after each guess if it is higher or lower."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.errors import shown
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Positive
from llmrl.rollouts.environment import Environment, Reply, Turn, environment

LONGEST = 1000
"""Most digits of a guess; a longer one is no number. Python reads up to 4300."""


@environment("guess_number")
@dataclass(frozen=True, slots=True, kw_only=True)
class GuessNumber(Environment):
    """Goes on from prompts of the task ``guess_number``, whose answer is the range, as in ``12-26``.

    The number comes from the seed. A guess is answered with ``+`` if the number is higher and with ``-`` if
    it is lower; anything but a number loses.
    """

    turns: int = 4
    """Most guesses."""
    max_turn_tokens: Positive | None = None
    """Most tokens of one guess; by default what is left of ``rollouts.max_tokens``."""

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, got {self.turns}")

    def start(self, prompt: Prompt, *, seed: int) -> GuessNumberEpisode:
        low, dash, high = (prompt.answer or "").partition("-")
        if not (dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise ValueError(f"the answer must be a range such as '12-26', got {shown(prompt.answer)}")
        return GuessNumberEpisode(turns=self.turns, secret=int(low) + seed % (int(high) - int(low) + 1))


@dataclass(slots=True, kw_only=True)
class GuessNumberEpisode:
    """One game."""

    turns: int
    """Number of guesses that are left."""
    secret: int

    async def reply(self, turn: Turn) -> Reply:
        """Reply to a guess; the outcome is 1 for the number, else 0."""
        self.turns -= 1
        guess = turn.text.strip()
        if guess == str(self.secret):
            return Reply(over=True, outcome=1.0)
        if not guess.isdecimal() or len(guess) > LONGEST or not self.turns:
            return Reply(over=True, outcome=0.0)
        return Reply(text="+" if int(guess) < self.secret else "-", outcome=0.0)
