"""``sql``: does the response's query return the same as the gold query, on SQLite?"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

from llmrl.errors import shown
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, gold_of, reward

Row = tuple[object, ...]

_FENCE = re.compile(r"```(?:sql|sqlite|SQL)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_STEPS = 1000
"""Instructions of SQLite's machine between two checks of the clock."""
_LONGEST_VALUE = 10**5
"""Most bytes of a text, blob or query."""
_LARGEST_RESULT = 10**7
"""Most bytes of text in all rows."""
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_CHANCE = frozenset({"random", "randomblob", "load_extension", "zeroblob", "sqlite_compileoption_get"})
"""Functions that are of no use in an answer."""


@reward("sql")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """1 if the response's query returns the rows that the gold query returns, else 0.

    The query is the text in the last code fence, in ``<answer>``, or the whole response. It is one statement
    that only reads, on a database of its own in memory. Rows are compared as a bag, in order if the gold
    query sorts them; columns by position, whatever their names; numbers to six decimals.
    """

    setup: str = ""
    """SQL that makes and fills the tables."""
    seconds: float = 2.0
    """Longest time of a query."""
    most_rows: int = 10_000
    """Most rows of a query; one with more is wrong."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")
        if self.most_rows < 1:
            raise ValueError(f"most_rows must be at least 1, got {self.most_rows}")
        try:
            with closing(self._database()):
                pass
        except sqlite3.Error as error:
            raise ValueError(f"setup fails on SQLite: {error}") from None

    def __call__(self, sample: Sample) -> Score:
        query = gold_of(sample)
        with closing(self._database()) as database:
            gold = self._gold_rows(database, query)
            try:
                rows = self._rows(database, _query_of(sample.final_text))
            except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
                return Score(0.0, f"the query fails: {error}")
        return Score(
            float(_same(gold, rows, ordered=_sorts(query))), f"{len(rows)} rows, gold has {len(gold)}"
        )

    def _gold_rows(self, database: sqlite3.Connection, query: str) -> list[Row]:
        try:
            rows = self._rows(database, query)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise ValueError(f"the gold query {shown(query)} fails: {error}") from None
        if not rows:
            raise ValueError(
                f"the gold query {shown(query)} returns no rows; then any query that finds none is right"
            )
        return rows

    def _rows(self, database: sqlite3.Connection, query: str) -> list[Row]:
        """Every row of one statement that reads.

        Raises:
            sqlite3.Error: it fails, writes, or takes too long.
            ValueError: it returns too much.
        """
        end = time.monotonic() + self.seconds
        _guard(database, end)
        rows: list[Row] = []
        size = 0
        for row in database.execute(query):
            rows.append(tuple(_plain(value) for value in row))
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(rows) > self.most_rows or size > _LARGEST_RESULT:
                raise ValueError(f"more than most_rows = {self.most_rows} rows, or {_LARGEST_RESULT} bytes")
        if time.monotonic() > end:  # the clock is not checked within one function
            raise ValueError(f"longer than seconds = {self.seconds:g}")
        return rows

    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.executescript(self.setup)
        return database


def _guard(database: sqlite3.Connection, end: float) -> None:
    """Make the database read-only from now on, and interrupt it after ``end``."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.set_authorizer(_authorize)
    database.set_progress_handler(lambda: time.monotonic() > end, _STEPS)


def _authorize(action: int, *named: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (named[1] or "").lower() in _CHANCE else sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


def _query_of(response: str) -> str:
    found = _FENCE.findall(response) or _TAG.findall(response)
    return found[-1] if found else response


def _sorts(query: str) -> bool:
    """Whether the outermost query has an ORDER BY: one outside brackets and quotes."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "''", _COMMENT.sub(" ", query))
    previous = ""
    while previous != text:
        previous, text = text, re.sub(r"\([^()]*\)", " ", text)
    return _ORDER.search(text) is not None


def _plain(value: object) -> object:
    """A value for comparison; numbers that are equal to six decimals become the same."""
    return round(value, 6) if isinstance(value, float) else value


def _same(gold: list[Row], rows: list[Row], *, ordered: bool) -> bool:
    return gold == rows if ordered else Counter(gold) == Counter(rows)
