"""Thoughts: what a model writes between ``<think>`` and ``</think>`` before it speaks."""

from __future__ import annotations

THOUGHT = "<think>"
"""Begins a thought; many chat templates write it themselves, so that a response only ends its thoughts."""


def without_thoughts(text: str) -> str:
    """What follows the last thought, without the empty lines between; nothing of one that never ends."""
    _, ended, rest = text.rpartition("</think>")
    return (rest.lstrip("\n") if ended else rest).partition(THOUGHT)[0]
