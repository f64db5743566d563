"""The other speaker of one conversation: an episode of the environment, held to its word and its deadline."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llmrl.errors import DeadlineError, EngineError, shown
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.environment import Environment, Episode, Reply, Turn

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True, eq=False)
class Partner:
    """The environment in one conversation; its episode begins with the first reply."""

    environment: Environment
    prompt: Prompt
    seed: int
    host: Host
    _episode: Episode | None = field(default=None, init=False)

    async def reply(self, turn: Turn, before: Sequence[tuple[Turn, Reply]]) -> Reply:
        """Reply to ``turn``.

        Args:
            before: the conversation so far, which a new episode is told.
        Raises:
            DeadlineError: there was no reply in time.
            EngineError: the environment failed, or replied otherwise than before.
        """
        if self._episode is None:
            self._episode = await self._begun(before)
        return await self._heard(self._episode, turn, len(before))

    async def _begun(self, before: Sequence[tuple[Turn, Reply]]) -> Episode:
        """Start an episode, and tell it the turns so far."""
        episode = await self._held(self._start(), "cannot begin with")
        for number, (turn, earlier) in enumerate(before):
            reply = await self._heard(episode, turn, number)
            if reply != earlier:
                raise EngineError(
                    f"{self._name} replied {shown(reply.text)} to turn {number} of prompt "
                    f"{shown(self.prompt.id)}, and {shown(earlier.text)} before; equal seeds and "
                    f"turns must get equal replies, so all that is random must come from the seed."
                )
        return episode

    async def _start(self) -> Episode:
        return self.environment.start(self.prompt, seed=self.seed)

    async def _heard(self, episode: Episode, turn: Turn, number: int) -> Reply:
        return await self._held(episode.reply(turn), f"failed at turn {number} of")

    async def _held(self, work: Coroutine[Any, Any, Result], failure: str) -> Result:
        try:
            return await self.host.run(work, deadline_s=self.environment.reply_deadline_s)
        except DeadlineError as late:
            # Without the prompt, so that equal reasons can be counted.
            raise DeadlineError(f"{self._name}: {late}") from late
        except Exception as error:  # whatever a plugin raises is reported to its author
            where = f"prompt {shown(self.prompt.id)}: {type(error).__name__}: {error}"
            raise EngineError(f"{self._name} {failure} {where}") from error

    @property
    def _name(self) -> str:
        return f"environment {type(self.environment).__name__}"
