"""The isolation that this machine allows: for ``llmrl doctor``, and for requests to an administrator."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.errors import LlmrlError
from llmrl.sandbox.jail import Isolation
from llmrl.sandbox.jails import Jails


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of isolation, and the result of trying it."""

    isolation: Isolation
    refusal: str
    """Missing primitive and the next move; empty if the level works."""


def survey() -> tuple[Level, ...]:
    """Try every level with an empty program, the strongest first; takes about half a second."""
    return _tried("kernel"), _tried("process")


def _tried(isolation: Isolation) -> Level:
    try:
        with Jails(isolation):
            return Level(isolation=isolation, refusal="")
    except LlmrlError as error:
        return Level(isolation=isolation, refusal=str(error))
