"""An environment is whoever answers the policy: a user, a tool or a game, one reply after each turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmrl.prompts.prompt import Prompt
from llmrl.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the policy said, from one reply to the next."""

    text: str
    """Without special tokens."""
    tokens: int
    """Length in tokens, the stop token included."""
    finished: bool
    """False if a token budget cut it off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the policy hears next, or that there is nothing more to say."""

    text: str = ""
    """Put after the policy's turn as it is; where the model has a chat template, as the user's next turn."""
    over: bool = False
    """Nobody speaks after this; the policy does not hear ``text``, only rewards do."""
    outcome: float | None = None
    """What the conversation is worth if it ends here, for the reward ``outcome``; None abstains."""


class Episode(Protocol):
    """One conversation under way; it may keep whatever it needs to know."""

    async def reply(self, turn: Turn, /) -> Reply:
        """Listen to one turn of the policy. What it raises ends the run with this environment's name.

        Raises:
            DeadlineError: the reply took too long; the conversation is aborted, as it is after
                ``reply_deadline_s``, and the run goes on.
        """
        ...


class Environment(Protocol):
    """A frozen dataclass whose fields are its options; inherit from this class.

    Equal prompts, seeds and turns must get equal replies: this is how a conversation goes on from any of
    its turns, with an episode that has been told the turns before.
    """

    max_turn_tokens: int | None = None
    """Most tokens of one turn of the policy; None leaves it what is left of ``rollouts.max_tokens``."""
    reply_deadline_s: float = 60.0
    """Longest time for one reply; then the conversation is aborted, judged by nobody and not trained on."""

    def warm_up(self) -> None:
        """Load what is heavy, before the first deadline starts to run; what it raises ends the run."""

    def close(self) -> None:
        """Free what it holds; nothing begins after this."""

    def start(self, prompt: Prompt, /, *, seed: int) -> Episode:
        """A new conversation that begins with ``prompt``.

        Args:
            seed: all that is random comes from it. The responses to one draw have the same, so that they
                are compared in the same world.
        """
        ...


environment: Registry[Environment] = Registry("environment", base=Environment)
