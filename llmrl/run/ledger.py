"""The ledger: the fate of every prompt that was drawn. Each ends once, trained or dropped for a reason."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Enough of the ledger to go on: what lies before ``cursor`` is finished unless listed."""

    cursor: int
    unfinished: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is written into a checkpoint."""
        return {"cursor": self.cursor, "unfinished": list(self.unfinished)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Snapshot:
        """As it is read from one."""
        return cls(cursor=int(data["cursor"]), unfinished=tuple(int(o) for o in data["unfinished"]))


class Ledger:
    """Hands out ordinals of the prompt stream and records their fate, line by line, in ``ledger.jsonl``."""

    def __init__(self, path: Path, snapshot: Snapshot | None = None) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._cursor = snapshot.cursor if snapshot else 0
        self._again = deque(snapshot.unfinished if snapshot else ())
        self._open: set[int] = set(self._again)
        if snapshot or self._file.tell():  # without one all is owed again that an earlier run has begun
            self._write("resumed", **(snapshot or self.snapshot()).to_json())

    def draw(self) -> int:
        """The next ordinal: first those that a resumed run owes or that came too late, then new ones."""
        if self._again:
            ordinal = self._again.popleft()
        else:
            ordinal, self._cursor = self._cursor, self._cursor + 1
            self._open.add(ordinal)
        self._write("dispatched", ordinal=ordinal)
        return ordinal

    def generated(self, ordinal: int, *, version: int | None) -> None:
        """All responses are there; the oldest token is of ``version``, None if there is no token."""
        self._write("generated", ordinal=ordinal, version=version)

    def trained(self, ordinals: Iterable[int], *, step: int) -> None:
        """These groups made up optimizer step ``step``."""
        listed = list(ordinals)
        self._open.difference_update(listed)
        self._write("trained", ordinals=listed, step=step)

    def dropped(self, ordinal: int, *, reason: str) -> None:
        """This group is not trained on."""
        self._open.discard(ordinal)
        self._write("dropped", ordinal=ordinal, reason=reason)

    def late(self, ordinal: int) -> None:
        """This group was given up before it was trained on; it is drawn again."""
        self._again.append(ordinal)
        self._write("late", ordinal=ordinal)

    def snapshot(self) -> Snapshot:
        """For a checkpoint that is taken now."""
        return Snapshot(cursor=self._cursor, unfinished=tuple(sorted(self._open)))

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, event: str, **fields: object) -> None:
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
        self._file.flush()
