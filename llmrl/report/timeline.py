"""timeline.json: who did what when, in the first steps of a stage; Perfetto and chrome://tracing show it."""

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

    The format is Chrome's: an array of trace events, whose closing bracket its readers do not ask for.
    """

    def __init__(self, folder: Path, *, steps: int) -> None:
        """A new file in ``folder``, which is complete after so many ``step_done``; none if there are none."""
        self._steps = steps
        self._lanes: dict[tuple[str, int], int] = {}
        self._free: defaultdict[str, list[int]] = defaultdict(list)
        """Lanes of each track that nothing is drawn on now, the uppermost first."""
        self._more: defaultdict[str, count[int]] = defaultdict(count)
        """Those that nothing was drawn on yet."""
        self._file: IO[str] | None = (folder / FILE).open("w", encoding="utf-8") if steps else None
        if self._file:
            self._file.write("[\n")

    @contextmanager
    def span(self, track: str, name: str) -> Generator[None]:
        """What happens inside is drawn on ``track``; what overlaps there goes to lanes below each other."""
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
        """One step less to go; the last one completes the file."""
        self._steps -= 1
        if self._steps <= 0:
            self.close()

    def close(self) -> None:
        """Whatever ends from now on is not written."""
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
