"""``remote``: a service judges the response, by HTTP."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from llmrl.errors import ServiceError, shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, reward
from llmrl.roles.service import Service


@reward("remote")
@dataclass(frozen=True, slots=True, kw_only=True)
class Remote(Service):
    """The score that a service gives to a sample, which it gets as JSON in a POST.

    It answers ``{"score": 0.5}``, ``{"abstain": "why"}`` or ``{"error": "why"}``; a score may have a
    ``note``. Any other answer is an error, and so is any status but 200.
    """

    reads_answer: ClassVar[bool] = False

    async def __call__(self, sample: Sample) -> Score:
        return _verdict(await self.ask(dataclasses.asdict(sample)), self.url)


def _verdict(body: bytes, url: str) -> Score:
    """Read the service's verdict from its answer alone."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = body.decode(errors="replace")
    match answer:
        case {"error": why}:
            raise ServiceError(f"{url} reports an error: {shown(why, 200)}.")
        case {"abstain": str() | True as why, **rest} if "score" not in rest:
            return Score(None, why if isinstance(why, str) else "")
        case {"score": bool() | int() | float() as value, **rest} if "abstain" not in rest:
            return Score(value, str(rest.get("note", "")))
        case _:
            raise ServiceError(
                f"{url} answered {shown(answer)}; an object with a number as score, "
                f"or with a text as abstain or error, is allowed."
            )
