"""An environment answers the policy: a user, a tool or a game, with one reply after each turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmrl.prompts.prompt import Prompt
from llmrl.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The policy's tokens between two replies."""

    text: str
    """Text without special tokens."""
    tokens: int
    """Length in tokens, the stop token included."""
    finished: bool
    """False if a token budget cut it off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The environment's message after a turn, or the end of the conversation."""

    text: str = ""
    """Text that follows the policy's turn as it is; with a chat template, as the user's next turn."""
    over: bool = False
    """Whether this ends the conversation; the policy does not read ``text`` then, only rewards do."""
    outcome: float | None = None
    """Value of the conversation if it ends here, for the reward ``outcome``; None abstains."""


class Episode(Protocol):
    """One conversation under way; it may keep any state."""

    async def reply(self, turn: Turn, /) -> Reply:
        """Reply to one turn of the policy. An exception ends the run with this environment's name.

        Raises:
            DeadlineError: the reply took too long; the conversation is aborted, as it is after
                ``reply_deadline_s``, and the run goes on.
        """
        ...


class Environment(Protocol):
    """A frozen dataclass whose fields are its options; inherit from this class.

    Equal prompts, seeds and turns must get equal replies: a conversation may be continued from any of its
    turns by a new episode, which is given the turns before.
    """

    max_turn_tokens: int | None = None
    """Most tokens of one turn of the policy; None leaves it what is left of ``rollouts.max_tokens``."""
    reply_deadline_s: float = 60.0
    """Longest time for one reply; then the conversation is aborted, neither judged nor trained on."""

    def warm_up(self) -> None:
        """Load what is heavy, before the first deadline starts to run; an exception ends the run."""

    def close(self) -> None:
        """Free all resources; no conversation begins after this."""

    def start(self, prompt: Prompt, /, *, seed: int) -> Episode:
        """Start a conversation that begins with ``prompt``.

        Args:
            seed: source of all randomness. The responses to one draw have the same one, so that they are
                compared in the same world.
        """
        ...


environment: Registry[Environment] = Registry("environment", base=Environment)
