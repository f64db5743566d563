"""Messages to and from a role, where OpenAI's API does not define them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from llmrl.prompts.example import Message


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Turn(_Body):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    def message(self) -> Message:
        """The same message as prompts have it."""
        return Message(role=self.role, content=self.content)


class ToScore(_Body):
    """A question for ``/v1/score``."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    """The conversation up to the response."""
    response: str


class Scored(_Body):
    """An answer of ``/v1/score``."""

    scores: Annotated[list[FiniteFloat], Field(min_length=1)]
    """One score of the whole response, or one of each step."""


class Sampled(_Body):
    """The sampling options that a role reads of a chat completion."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Choice(_Body):
    """One answer of a generating model."""

    message: Turn
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """Text of the answer."""
        return self.message.content

    @property
    def cut(self) -> bool:
        """Whether ``max_tokens`` ended it."""
        return self.finish_reason == "length"


class Said(_Body):
    """The fields that are read of a chat completion."""

    choices: Annotated[list[Choice], Field(min_length=1)]
