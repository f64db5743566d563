"""A search over documents on disk: the passages that share most rare words with the question come first."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, shown
from llmrl.recipe.schema import Positive
from llmrl.rollouts.tool import Tool, ToolError, tool

K1, B = 1.2, 0.75
"""BM25's parameters: saturation of repeated words, and penalty for long documents."""

_WORD = re.compile(r"\w+")


@tool("search")
@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Tool):
    """Ranks by BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", equation 3.15),
    with an inverse document frequency that is never negative."""

    file: str
    """JSONL file with one document a line, at this path on every node."""
    field: str = "text"
    """Key of a document's text."""
    top: Positive = 3
    """Most passages of an answer, each on a line of its own."""
    characters: Positive = 500
    """Most characters of each passage; the rest is cut off."""

    def warm_up(self) -> None:
        """Read the file.

        Raises:
            DataError: the file is missing, or a line has no such text.
        """
        _index(self.file, self.field)

    async def answer(self, question: str) -> str:
        found = _index(self.file, self.field).ranked(question)[: self.top]
        if not found:
            raise ToolError(f"nothing found for {shown(question)}")
        return "\n".join(text[: self.characters].replace("\n", " ") for text in found)


class Index:
    """The words of some documents, with their counts."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        sizes = np.zeros(len(texts))
        for number, text in enumerate(texts):
            words = _words(text)
            sizes[number] = len(words)
            for word, times in Counter(words).items():
                places[word].append((number, times))
        self._places = {word: np.array(found) for word, found in places.items()}
        self._held = K1 * (1 - B + B * sizes / max(sizes.mean(), 1)) if texts else sizes

    def ranked(self, question: str) -> list[str]:
        """Every document that has a word of the question, best first; of equals the earlier."""
        scores = np.zeros(len(self._texts))
        # In one order in every process: the last bits of a sum, and so the ranking, depend on it.
        for word in sorted(set(_words(question)) & self._places.keys()):
            documents, times = self._places[word].T
            rarity = np.log1p((scores.size - documents.size + 0.5) / (documents.size + 0.5))
            scores[documents] += rarity * times * (K1 + 1) / (times + self._held[documents])
        order: NDArray[np.intp] = np.argsort(-scores, kind="stable")
        return [self._texts[number] for number in order[: np.count_nonzero(scores)]]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@cache
def _index(file: str, field: str) -> Index:
    """The index that all conversations of this process share."""
    try:
        # A JSON text may hold other ends of lines, such as U+2028.
        lines = Path(file).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{file}: the documents of a search cannot be read: {error.strerror}.") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return Index([_text(line, f"{file}: line {number}", field) for number, line in numbered])


def _text(line: str, place: str, field: str) -> str:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}.") from error
    text = cast("dict[str, Any]", found).get(field) if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place} must be an object with a text {shown(field)}, got {shown(line)}.")
    return text
