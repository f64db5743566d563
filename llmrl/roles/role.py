"""The interface of every role: a question in, an answer out, whatever model is behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from llmrl.recipe.schema import Stage
from llmrl.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A role's answer to a question."""

    body: bytes
    """JSON text."""
    status: int = 200
    """HTTP status."""


class Role(Protocol):
    """A loaded model that answers."""

    async def answer(self, route: str, question: bytes) -> Answer:
        """Answer the body of a POST; ``route`` is what follows ``/v1/``. Many calls may be under way.

        An invalid question gets a refusal. An exception is this process's fault, and another one is asked.
        """
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


class RoleKind(Protocol):
    """A registered kind of role: a frozen dataclass that starts roles, its fields the options."""

    async def start(self, stage: Stage, name: str, *, device: str) -> Role:
        """Load the model in the folder ``stage.roles[name].path`` on ``device`` (cpu or cuda)."""
        ...


role: Registry[RoleKind] = Registry("role", named_by="kind", protocol=RoleKind)


def refusal(reason: str, *, status: int = 400) -> Answer:
    """An error in the form that OpenAI's clients read."""
    body = {"error": {"message": reason, "type": "invalid_request_error", "param": None, "code": None}}
    return Answer(body=json.dumps(body).encode(), status=status)
