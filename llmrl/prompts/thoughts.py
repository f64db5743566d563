"""Thoughts: the text that a model writes between ``<think>`` and ``</think>`` before its answer."""

from __future__ import annotations

THOUGHT = "<think>"
"""Mark that begins a thought; many chat templates write it, so that a response only ends its thoughts."""


def without_thoughts(text: str) -> str:
    """The text after the last thought, without the empty lines between; empty if that never ends."""
    _, ended, rest = text.rpartition("</think>")
    return (rest.lstrip("\n") if ended else rest).partition(THOUGHT)[0]
