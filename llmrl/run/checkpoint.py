"""Checkpoints: a folder is complete when its manifest says so, and it appears under its name all at once.

    checkpoints/step-000040/
        MANIFEST.json     size and sha256 of every other file; written last
        state.json        step, ledger, credit's memory, fingerprint of the data, tables of the recipe
        zero/, rng-*.npz  what each rank of the policy wrote

There is no pointer to the latest: the newest folder whose manifest holds is the one to go on from.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import NoneType
from typing import Any, cast

from llmrl.errors import CheckpointError, TrainingError
from llmrl.experience.credit import Memory
from llmrl.recipe.tables import Tree
from llmrl.run.ledger import Snapshot
from llmrl.weights.seal import described, flush

MANIFEST = "MANIFEST.json"
STATE = "state.json"
SCALARS = (str, int, float, NoneType)
"""Types that a value in the credit's memory may have, besides lists and dicts; a bool is an int."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The part of a checkpoint that is not in the policy's own files."""

    step: int
    """Optimizer steps taken, which is also the version of the weights."""
    ledger: Snapshot
    memory: Memory
    """State that the credit keeps from step to step."""
    data: str
    """Fingerprint of the prompts; another dataset is refused."""
    tables: Tree
    """The recipe's tables that decide what is computed; a checkpoint with other tables is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    state: RunState


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def begin(self, step: int) -> Path:
        """Make an empty folder for the ranks to write into; it is no checkpoint until ``commit``."""
        for leftover in self._folder.glob(".tmp-*"):
            shutil.rmtree(leftover)
        for leftover in self._folder.glob(".del-*"):
            _discard(leftover)
        path = self._folder / f".tmp-step-{step:06d}"
        path.mkdir(parents=True)
        return path

    def commit(self, path: Path, state: RunState, *, written: Sequence[Path]) -> Path:
        """Seal what the ranks wrote and give it its name.

        Args:
            path: the folder that they wrote into.
            written: the last file of each rank, as it says itself.
        Raises:
            CheckpointError: a rank's files are missing here; nothing is sealed, and no older one removed.
        """
        lacking = [rank for rank, file in enumerate(written) if not file.exists()]
        if lacking:
            raise CheckpointError(
                f"{path}: the files of rank {lacking[0]} of {len(written)} are not here, so it wrote them on "
                "its own machine; run.folder must be the same folder on all machines: give the path of one "
                "that they share."
            )
        fields = {
            "step": state.step,
            "ledger": state.ledger.to_json(),
            "memory": state.memory,
            "data": state.data,
            "tables": state.tables,
        }
        (path / STATE).write_text(json.dumps(fields, indent=1), encoding="utf-8")
        entries = dict[str, dict[str, Any]]()
        for file in _files(path):
            flush(file)
            entries[str(file.relative_to(path))] = described(file)
        (path / MANIFEST).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
        flush(path / MANIFEST)
        for folder in (*(one for one in path.rglob("*") if one.is_dir()), path):
            flush(folder)
        final = self._folder / path.name.removeprefix(".tmp-")
        self._remove(final)
        path.rename(final)
        flush(self._folder)
        # Whatever is newer was damaged, or this would have gone on from there.
        newer = [one for one in self._all() if one > final]
        for old in [*self._all()[: -self._keep - len(newer)], *newer]:
            self._remove(old)
        return final

    def newest(self, *, otherwise: str = "use --fresh to start over") -> Checkpoint | None:
        """The newest complete checkpoint; damaged ones are named in the log and passed over.

        Args:
            otherwise: the advice that the error gives when none is complete.

        Raises:
            CheckpointError: there are checkpoints and not one of them is complete.
        """
        found = self._all()
        for path in reversed(found):
            try:
                return intact(path)
            except CheckpointError as error:
                _log.warning("%s", error)
        if found:
            raise CheckpointError(f"{self._folder}: none of {len(found)} checkpoints is intact; {otherwise}.")
        return None

    def last(self) -> Checkpoint | None:
        """The newest checkpoint whose state can be read, whatever became of its other files."""
        for path in reversed(self._all()):
            with suppress(CheckpointError):
                return Checkpoint(path=path, state=read_state(path))
        return None

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))

    def _remove(self, path: Path) -> None:
        if path.exists():
            doomed = Path(mkdtemp(prefix=".del-", dir=self._folder))
            path.rename(doomed / path.name)
            _discard(doomed)


def _discard(folder: Path) -> None:
    """Delete a folder, or log why not: a file that an export still reads is no reason to end a run."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        _log.warning("%s cannot be deleted yet (%s); the next checkpoint tries again.", folder, error)


def intact(path: Path) -> Checkpoint:
    """The checkpoint at ``path``.

    Raises:
        CheckpointError: as ``verify``.
    """
    verify(path)
    return Checkpoint(path=path, state=read_state(path))


def verify(path: Path) -> None:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: a file is missing, unexpected, unreadable or has other bytes; the message names it.
    """
    try:
        entries: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: no readable {MANIFEST} ({error}); the save did not finish.") from None
    present = {str(file.relative_to(path)) for file in _files(path)} - {MANIFEST}
    if present != entries.keys():
        raise CheckpointError(
            f"{path}: files differ from the manifest: {sorted(present ^ entries.keys())[0]}."
        )
    for name, entry in entries.items():
        if _now(path, name) != entry:
            raise CheckpointError(f"{path}: {name} is damaged: its bytes are not those that were written.")


def read_state(path: Path) -> RunState:
    """The run's part of a checkpoint.

    Raises:
        CheckpointError: the state cannot be read.
    """
    try:
        fields = json.loads((path / STATE).read_text(encoding="utf-8"))
        return RunState(
            step=int(fields["step"]),
            ledger=Snapshot.from_json(fields["ledger"]),
            memory=fields["memory"],
            data=str(fields["data"]),
            tables=fields["tables"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no readable {STATE} ({error}).") from None


def check_memory(memory: Memory, *, credit: str) -> None:
    """Refuse at the first step a memory that a checkpoint could not restore after the last one.

    Raises:
        TrainingError: a value is not of JSON; the message names the credit, its key and the type.
    """
    for key, value in memory.items():
        for found in _foreign({key: value}):
            raise TrainingError(
                f"credit '{credit}': memory[{key!r}] has {found}, which no checkpoint can restore; keep str, "
                "int, float, bool, None, and plain lists and dicts of them with str as keys."
            )


def _foreign(inside: object) -> Iterator[str]:
    """Parts of a list or dict that change when written as JSON and read again."""
    values: Iterable[object] = ()
    if type(inside) is dict:
        entries = cast("dict[object, object]", inside)
        yield from (f"a key of type {type(key).__name__}" for key in entries if not isinstance(key, str))
        values = entries.values()
    elif type(inside) is list:
        values = cast("list[object]", inside)
    else:
        yield f"a value of type {type(inside).__name__}"
    for value in values:
        if not isinstance(value, SCALARS):
            yield from _foreign(value)


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file())


def _now(path: Path, name: str) -> dict[str, Any]:
    """The entry that the manifest would have for a file now."""
    try:
        return described(path / name)
    except OSError as error:
        raise CheckpointError(f"{path}: {name} was removed or cannot be read ({error.strerror}).") from None
