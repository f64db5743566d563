"""A tool is called by the policy in the middle of a response: one text in, one text out."""

from __future__ import annotations

from typing import Protocol

from llmrl.registry import Registry


class ToolError(ValueError):
    """A call that cannot be answered as it stands; the policy reads the message, and the run goes on."""


class Tool(Protocol):
    """A frozen dataclass whose fields are its options; inherit from this class.

    Equal questions should get equal answers: conversations are repeated, and compared.
    """

    def warm_up(self) -> None:
        """Load what is heavy, before the first deadline starts to run; an exception ends the run."""

    async def answer(self, question: str, /) -> str:
        """Answer a question that the policy wrote, which may be anything.

        Raises:
            ToolError: the question makes no sense. Any other exception ends the run.
            DeadlineError: there is no answer in time; the conversation is aborted.
        """
        ...


tool: Registry[Tool] = Registry("tool", base=Tool)
