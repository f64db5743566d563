"""A place in the group that weights are broadcast in; code that only names one needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

ABANDONED = "the group that weights are broadcast in was given up"
"""Text in the error of every member that gave up: vLLM forwards an error's words, not its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one member, or of the first of an engine's workers, which take consecutive places."""

    address: str
    """host:port of rank 0's store."""
    rank: int
    """Rank in the group; rank 0 sends."""
    size: int
    """Number of members."""
    deadline_s: float
    """Longest wait for the other members, some of which may have responses to finish first."""
