"""What a reward says about one response: a score, an abstention or an error, and never a silent zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from llmrl.prompts.thoughts import THOUGHT, without_thoughts

Status = Literal["score", "abstain", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The view that a reward has of one response."""

    prompt: str
    response: str
    answer: str | None
    """The dataset's gold answer, or None."""
    tokens: int
    """Length of the response in tokens."""
    finished: bool
    """False if the token budget cut the response off."""
    source: str = ""
    max_tokens: int = 0
    """The budget of the response in tokens."""
    outcome: float | None = None
    """What the environment says that the conversation was worth; None where it says nothing."""
    rivals: tuple[str, ...] = ()
    """Responses to the same prompt that this one is compared with; only for rewards that read them."""
    last_turn: str | None = None
    """The policy's last turn alone; None where the response is one turn and nothing else."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt before any chat template: messages with ``role`` and ``content``."""

    @property
    def final_text(self) -> str:
        """What the policy said last, where the answer stands: without earlier turns, replies and thoughts."""
        said = self.response if self.last_turn is None else self.last_turn
        return without_thoughts(THOUGHT + said if self._begun_in_thought else said)

    @property
    def _begun_in_thought(self) -> bool:
        """Whether a thought was opened before the last turn: a chat template does so for every turn, the
        prompt itself for the first one."""
        by_prompt = self.conversation[-1]["content"].rstrip().endswith(THOUGHT)
        return self.prompt.rstrip().endswith(THOUGHT) and not (by_prompt and self.last_turn is not None)

    def saying(self, text: str) -> Sample:
        """The same sample with ``text`` for a response of one turn."""
        return replace(self, response=text, last_turn=None)

    @property
    def conversation(self) -> Sequence[Mapping[str, str]]:
        """The messages; where there are none, the prompt as one of the user."""
        return self.messages or ({"role": "user", "content": self.prompt},)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on one response, summed over the recipe's rewards."""

    status: Status
    reward: float | None
    """The weighted sum of the parts; None unless ``status`` is ``score``."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Score of each named reward, before its weight."""
    note: str = ""
    """Why it abstained or failed, or what was extracted; for people."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.status == "score") != (self.reward is not None and math.isfinite(self.reward)):
            raise ValueError(f"a judgement with status '{self.status}' cannot carry reward {self.reward}")
