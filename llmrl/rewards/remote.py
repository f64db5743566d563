"""``remote``: a service judges the response, by HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from llmrl.errors import DeadlineError, RecipeError, RewardError, shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward

_FIRST_PAUSE_S = 0.1
"""Before the second try; every later one is twice as long."""
_TOO_MANY = 429
_ITS_FAULT = 500


class _Passing(Exception):
    """A failure that the next try may not see."""


@reward("remote")
@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """The score that a service gives to a sample, which it gets as JSON in a POST.

    It answers ``{"score": 0.5}``, ``{"abstain": "why"}`` or ``{"error": "why"}``, a score with a ``note`` if
    it likes. Any other answer is an error, and so is any status but 200.
    """

    url: str
    """Of the service, as ``http://localhost:8000/judge``."""
    seconds: float = 8.0
    """Time for an answer, all tries together; keep it below ``scoring.deadline_s``."""
    idempotent: bool = False
    """Asking twice does no harm: then lost connections, 429 and 5xx are tried again, with growing pauses."""
    token_from: str = ""
    """The environment variable whose value goes along as a bearer token."""

    reads_answer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"url must begin with http:// or https:// and a host, got {self.url!r}")
        if self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")

    def warm_up(self) -> None:
        """See whether the token is there, and load what speaks HTTP."""
        _poster()
        if self.token_from and not os.environ.get(self.token_from):
            raise RecipeError(
                f"rewards: the environment variable {self.token_from} (options.token_from) of the reward at "
                f"{self.url} is not set; set it where the run is started."
            )

    async def __call__(self, sample: Sample) -> Score:
        due = asyncio.get_running_loop().time() + self.seconds
        failures: list[str] = []
        question = json.dumps(dataclasses.asdict(sample)).encode()
        try:
            async with asyncio.timeout_at(due):
                return await self._insist(question, due, failures)
        except TimeoutError:
            raise DeadlineError(
                f"{self.url} gave no whole answer within {self.seconds:g} s (options.seconds)"
                f"{_before(failures)}."
            ) from None

    async def _insist(self, question: bytes, due: float, failures: list[str]) -> Score:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return _verdict(await self._post(question), self.url)
            except _Passing as error:
                left = due - asyncio.get_running_loop().time()
                if not self.idempotent or pause > left:
                    raise RewardError(f"{self.url} failed: {error}{_before(failures)}.") from None
                failures.append(str(error))
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(self, question: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.token_from:
            headers["Authorization"] = f"Bearer {os.environ[self.token_from]}"
        try:
            status, body = await _poster()(self.url, question, headers)
        except ConnectionError as error:
            raise _Passing(str(error)) from None
        if status == _TOO_MANY or status >= _ITS_FAULT:
            raise _Passing(f"status {status}, {shown(body.decode(errors='replace'))}")
        if status != 200:
            raise RewardError(f"{self.url} refused: status {status}, {shown(body.decode(errors='replace'))}.")
        return body


def _poster() -> Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes]]]:
    from llmrl.rewards.post import post  # noqa: PLC0415  httpx takes a fifth of a second to import

    return post


def _before(failures: list[str]) -> str:
    times = f"{len(failures)} earlier tries" if len(failures) > 1 else "an earlier try"
    return f", after {times} ({failures[-1]})" if failures else ""


def _verdict(body: bytes, url: str) -> Score:
    """What the service says, taken by its word and by nothing else."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = body.decode(errors="replace")
    match answer:
        case {"error": why}:
            raise RewardError(f"{url} reports an error: {shown(why, 200)}.")
        case {"abstain": str() | True as why, **rest} if "score" not in rest:
            return Score(None, why if isinstance(why, str) else "")
        case {"score": bool() | int() | float() as value, **rest} if "abstain" not in rest:
            return Score(value, str(rest.get("note", "")))
        case _:
            raise RewardError(
                f"{url} answered {shown(answer)}; an object with a number as score, "
                f"or with a text as abstain or error, is allowed."
            )
