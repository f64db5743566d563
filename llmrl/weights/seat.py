"""A place in the group that weights are broadcast in; who only names it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

ABANDONED = "the group that weights are broadcast in was given up"
"""In the message of every member that did so: vLLM hands on the words of an error, not its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One member's, or the first of an engine's, which has one for each of its workers."""

    address: str
    """host:port of rank 0's store."""
    rank: int
    """0 sends."""
    size: int
    """Members of the group."""
    deadline_s: float
    """Longest wait for the other members, some of which may have responses to finish first."""
