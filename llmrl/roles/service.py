"""Asking a service by HTTP: its address, how long to wait, and when to ask again."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from llmrl.errors import DeadlineError, RecipeError, ServiceError, shown

_FIRST_PAUSE_S = 0.1
"""Seconds before the second try; every later pause is twice as long."""
_TOO_MANY = 429
_ITS_FAULT = 500
_SHOWN = 160
"""Characters that a message quotes from a refusal."""


class _Error(BaseModel):
    message: str


class _Refusal(BaseModel):
    error: _Error


class _Passing(Exception):
    """A transient failure, which the next try may avoid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Options for asking a service. Redirects are not followed, proxies of the environment not used."""

    url: str
    """URL of the service, such as ``http://localhost:8000/judge``."""
    seconds: float = 8.0
    """Time for an answer, all tries together; keep it below ``scoring.deadline_s``."""
    idempotent: bool = False
    """Whether asking twice is harmless: then lost connections, 429 and 5xx are retried, at growing pauses."""
    token_from: str = ""
    """Name of the environment variable whose value is sent as a bearer token."""

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"url must begin with http:// or https:// and a host, got {self.url!r}")
        if address.username or address.password:
            raise ValueError("url must have no user and password, as recipes are published; use token_from")
        if self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")

    @property
    def who(self) -> str:
        """Name of the service in messages."""
        return self.url

    def warm_up(self) -> None:
        """Check that the token is set, and import the HTTP client."""
        _poster()
        if self.token_from and not os.environ.get(self.token_from):
            raise RecipeError(
                f"the environment variable {self.token_from} (options.token_from) for {self.who} is not set; "
                f"set it where the run is started."
            )

    async def ask(self, question: Mapping[str, object], *, route: str = "") -> bytes:
        """Send a question as JSON to ``url`` and ``route``; returns the body of the answer.

        Raises:
            ServiceError: any status but 200, an answer that is too long, or no answer.
            DeadlineError: there is no whole answer within ``seconds``.
        """
        due = asyncio.get_running_loop().time() + self.seconds
        failures: list[str] = []
        try:
            async with asyncio.timeout_at(due):
                return await self._insist(self.url + route, json.dumps(question).encode(), due, failures)
        except TimeoutError:
            raise DeadlineError(
                f"{self.who} gave no whole answer within {self.seconds:g} s (options.seconds)"
                f"{_before(failures)}."
            ) from None

    async def _insist(self, url: str, question: bytes, due: float, failures: list[str]) -> bytes:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await self._post(url, question)
            except _Passing as error:
                left = due - asyncio.get_running_loop().time()
                if not self.idempotent or pause > left:
                    raise ServiceError(f"{self.who} failed: {error}{_before(failures)}.") from None
                failures.append(str(error))
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(self, url: str, question: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.token_from:
            headers["Authorization"] = f"Bearer {os.environ[self.token_from]}"
        try:
            status, body = await _poster()(url, question, headers)
        except ConnectionError as error:
            raise _Passing(str(error)) from None
        except ValueError as error:
            raise ServiceError(f"{self.who} failed: {error}.") from None
        says = f"status {status}, {_said(body)}"
        if status == _TOO_MANY or status >= _ITS_FAULT:
            raise _Passing(says)
        if status != 200:
            raise ServiceError(f"{self.who} refused: {says}.")
        return body


def _poster() -> Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes]]]:
    from llmrl.roles.post import post  # noqa: PLC0415  httpx takes a fifth of a second to import

    return post


def _said(body: bytes) -> str:
    """The text of a refusal: the message in an API like OpenAI's, else the whole body."""
    try:
        error = _Refusal.model_validate_json(body).error.message
    except ValidationError:
        error = body.decode(errors="replace")
    return shown(error, _SHOWN)


def _before(failures: list[str]) -> str:
    times = f"{len(failures)} earlier tries" if len(failures) > 1 else "an earlier try"
    return f", after {times} ({failures[-1]})" if failures else ""
