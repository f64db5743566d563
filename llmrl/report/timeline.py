"""timeline.json: activity of each process in a stage's first steps, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import IO, Self

FILE = "timeline.json"


class Timeline:
    """Writes spans as they end, so that the file of a run that died is readable too.

    The format is Chrome's: an array of trace events, whose closing bracket its readers do not need.
    """

    def __init__(self, folder: Path, *, steps: int) -> None:
        """Open a new file in ``folder``, complete after ``steps`` calls of ``step_done``; none if 0."""
        self._steps = steps
        self._lanes: dict[tuple[str, int], int] = {}
        self._free: defaultdict[str, list[int]] = defaultdict(list)
        """Free lanes of each track, the uppermost first."""
        self._more: defaultdict[str, count[int]] = defaultdict(count)
        """Numbers of lanes that each track has not used yet."""
        self._file: IO[str] | None = (folder / FILE).open("w", encoding="utf-8") if steps else None
        if self._file:
            self._file.write("[\n")

    @contextmanager
    def span(self, track: str, name: str) -> Generator[None]:
        """Draw the block as a span on ``track``; overlapping spans get lanes below each other."""
        if not self._file:
            yield
            return
        free = self._free[track]
        lane = heappop(free) if free else next(self._more[track])
        began = time.monotonic_ns()
        try:
            yield
        finally:
            heappush(free, lane)
            self._draw((track, lane), name, began, time.monotonic_ns())

    def step_done(self) -> None:
        """Count one step; the last one completes the file."""
        self._steps -= 1
        if self._steps <= 0:
            self.close()

    def close(self) -> None:
        """Close the file; spans that end later are not written."""
        if self._file:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, lane: tuple[str, int], name: str, began: int, ended: int) -> None:
        if not self._file:
            return
        if lane not in self._lanes:
            self._lanes[lane] = len(self._lanes) + 1
            track = lane[0] if lane[1] == 0 else f"{lane[0]} ({lane[1] + 1})"
            self._write(name="thread_name", ph="M", tid=self._lanes[lane], args={"name": track})
        self._write(name=name, ph="X", tid=self._lanes[lane], ts=began / 1e3, dur=(ended - began) / 1e3)

    def _write(self, **event: object) -> None:
        assert self._file is not None, "asked before"
        self._file.write(json.dumps(event | {"pid": 1}) + ",\n")
        self._file.flush()
