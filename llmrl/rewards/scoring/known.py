"""Verdicts that were given already, by the content of what was judged."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from llmrl.rewards.scoring.part import Part


class KnownVerdicts:
    """The most recent verdicts; errors are not kept, since the next try may succeed."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._parts: OrderedDict[bytes, dict[str, Part]] = OrderedDict()

    def find(self, text: bytes) -> dict[str, Part] | None:
        """The verdicts of every reward on a sample, at no cost of time; None if they are unknown."""
        key = _key(text)
        if key in self._parts:
            self._parts.move_to_end(key)
        return self._parts.get(key)

    def keep(self, text: bytes, parts: Mapping[str, Part]) -> None:
        """Remember verdicts, and forget those that were not used for the longest time."""
        if any(part.status == "error" for part in parts.values()):
            return
        self._parts[_key(text)] = at_no_cost(parts)
        if len(self._parts) > self._entries:
            self._parts.popitem(last=False)


def at_no_cost(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The same verdicts, as they are when no reward had to be asked."""
    return {name: replace(part, seconds=0.0) for name, part in parts.items()}


def _key(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
