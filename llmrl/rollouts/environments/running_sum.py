"""A user who asks one sum after the other, each going on from the last: ``37+5=``, ``+3=``, ``+9=``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmrl.errors import shown
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.recipe.schema import Positive
from llmrl.rollouts.environment import Environment, Reply, Turn, environment


@environment("running_sum")
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSum(Environment):
    """Goes on from prompts of the task ``running_sum``, whose gold answer is the first total.

    The numbers to add come from the seed. The right answer is the sum of all numbers of the user so far,
    whatever the policy answered before.
    """

    turns: int = 3
    """Questions in a conversation, the prompt included."""
    worth: Literal["share", "all"] = "share"
    """Whether the outcome is the share of right answers; or 1 if all are right, else 0."""
    max_turn_tokens: Positive | None = None
    """Most tokens of one answer; by default what is left of ``rollouts.max_tokens``."""

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, got {self.turns}")

    def start(self, prompt: Prompt, *, seed: int) -> RunningSumEpisode:
        if prompt.answer is None or not prompt.answer.isdecimal():
            raise ValueError(f"the gold answer must be the first total, a number, got {shown(prompt.answer)}")
        return RunningSumEpisode(options=self, seed=seed, total=int(prompt.answer))


@dataclass(slots=True, kw_only=True)
class RunningSumEpisode:
    """One conversation with this user."""

    options: RunningSum
    seed: int
    total: int
    """Sum of all numbers asked so far."""
    answered: int = 0
    right: int = 0

    async def reply(self, turn: Turn) -> Reply:
        self.right += turn.text.strip() == str(self.total)
        self.answered += 1
        if self.answered == self.options.turns:
            return Reply(over=True, outcome=self._outcome())
        added = derive_seed(self.seed, self.answered) % 10
        self.total += added
        return Reply(text=f"+{added}=", outcome=self._outcome())

    def _outcome(self) -> float:
        """The outcome; questions that were never reached count as wrong."""
        share = self.right / self.options.turns
        return share if self.options.worth == "share" else float(share == 1)
