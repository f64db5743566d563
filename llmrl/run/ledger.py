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
    """The state that the ledger resumes from: every ordinal before ``cursor`` is finished unless listed."""

    cursor: int
    unfinished: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The snapshot as a checkpoint stores it."""
        return {"cursor": self.cursor, "unfinished": list(self.unfinished)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Snapshot:
        """Read a snapshot from a checkpoint."""
        return cls(cursor=int(data["cursor"]), unfinished=tuple(int(o) for o in data["unfinished"]))


class Ledger:
    """Hands out ordinals of the prompt stream and records their fate, line by line, in ``ledger.jsonl``."""

    def __init__(self, path: Path, snapshot: Snapshot | None = None) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._cursor = snapshot.cursor if snapshot else 0
        self._again = deque(snapshot.unfinished if snapshot else ())
        self._open: set[int] = set(self._again)
        if snapshot or self._file.tell():  # without a snapshot, all that an earlier run began is owed again
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
        """Record a complete group; ``version`` is that of its oldest token, None if it has no token."""
        self._write("generated", ordinal=ordinal, version=version)

    def trained(self, ordinals: Iterable[int], *, step: int) -> None:
        """Record that these groups made up optimizer step ``step``."""
        listed = list(ordinals)
        self._open.difference_update(listed)
        self._write("trained", ordinals=listed, step=step)

    def dropped(self, ordinal: int, *, reason: str) -> None:
        """Record that this group is not trained on."""
        self._open.discard(ordinal)
        self._write("dropped", ordinal=ordinal, reason=reason)

    def late(self, ordinal: int) -> None:
        """Record that this group was given up before it was trained on; it is drawn again."""
        self._again.append(ordinal)
        self._write("late", ordinal=ordinal)

    def snapshot(self) -> Snapshot:
        """The state for a checkpoint that is taken now."""
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
