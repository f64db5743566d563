"""Which elements of a tensor changed since the engines last got it: bit by bit, in the dtype they serve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmrl.weights.bundle import Words
from llmrl.weights.parcel import Parcel

INDEX = np.dtype(np.uint32)
LARGEST = 2**32
"""Most elements of a tensor that an index can address."""


class Held:
    """The bits that every engine holds, and their distance from new ones."""

    def __init__(self) -> None:
        self.version: int | None = None
        """Version that the engines hold; None if they hold nothing, or it is unknown."""
        self._words: dict[str, Words] = {}
        self.elements = 0
        self.changed = 0
        """Elements of the version under way that differ from those held."""

    def begin(self) -> int | None:
        """Start on a new version; returns the version that it will change."""
        base, self.version = self.version, None
        self.elements = self.changed = 0
        return base

    def changes(self, new: Parcel, *, base: int | None) -> Iterator[Parcel]:
        """The fewest bytes that make the held tensor equal to ``new``, which is held from here on."""
        words = new.words
        self.elements += words.size
        if base is None:
            self._words[new.name] = words.copy()
            self.changed += words.size
            yield new
            return
        held = self._words[new.name]
        index = np.flatnonzero(held != words)
        self.changed += index.size
        if index.size * (INDEX.itemsize + words.itemsize) >= words.nbytes or words.size > LARGEST:
            held[:] = words
            yield new
        elif index.size:
            value = held[index] = words[index]
            yield new.with_part("index", index.astype(INDEX), dtype=INDEX.name)
            yield new.with_part("value", value, dtype=new.dtype)
