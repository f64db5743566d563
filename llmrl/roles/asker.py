"""Questions to a model: a role of the run by its name, or a service elsewhere that has the same API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

from pydantic import BaseModel, ValidationError

from llmrl.errors import ServiceError, shown
from llmrl.roles.service import Service
from llmrl.roles.wire import Choice, Said, Scored

Form = TypeVar("Form", bound=BaseModel)

PLACE = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker(Service):
    """Options of a reward or environment that asks a model; inherit from this class."""

    role: str = ""
    """Name of a role, as in ``[roles.<name>]``."""
    url: str = ""
    """URL of a service elsewhere instead of a role, such as ``https://host/v1``."""
    model: str = ""
    """The service's name of the model; only with ``url``."""

    asks: ClassVar[str] = "generate"
    """Kind of role that can answer."""

    def __post_init__(self) -> None:
        if self.url:  # a recipe without role and url is refused where its roles are known
            Service.__post_init__(self)

    @property
    def who(self) -> str:
        """Name of the service in messages."""
        return f"role '{self.role}'" if self.role else self.url

    def at(self, door: str) -> Self:
        """A copy that knows the URL of the run's roles."""
        return replace(self, url=f"{door}/{self.role}/v1") if self.role else self

    async def hear(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float, seed: int
    ) -> Choice:
        """The next message of a model of kind ``generate``: its ``text``, and whether it was ``cut`` off.

        Raises:
            ServiceError, DeadlineError: there is no answer, or not in time.
        """
        question = {
            "model": self.model or self.role,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        said = self._read(Said, await self.ask(question, route="/chat/completions"))
        return said.choices[0]

    async def score(self, messages: Sequence[Mapping[str, str]], response: str) -> list[float]:
        """The scores that a model of kind ``classify`` (one) or ``steps`` (one a step) gives a response.

        Raises:
            ServiceError, DeadlineError: there are no scores, or not in time.
        """
        question = {"model": self.model or self.role, "messages": list(messages), "response": response}
        return self._read(Scored, await self.ask(question, route="/score")).scores

    def _read(self, form: type[Form], body: bytes) -> Form:
        try:
            return form.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            got = shown(body.decode(errors="replace"))
            raise ServiceError(f"{self.who} answered {got}; {where}: {first['msg']}.") from None


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    """Messages in the form of the API, from roles and contents; those without content are left out."""
    return [{"role": role, "content": content} for role, content in turns if content]


def filled(template: str, places: Mapping[str, str]) -> str:
    """The template with a text for each ``{place}``; placeholders inside the texts are not filled."""
    return PLACE.sub(lambda found: places.get(found[1], found[0]), template)
