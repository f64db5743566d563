"""Pass rates: how often each row of a dataset was solved, as one run writes it and another reads it.

``pass_rates.jsonl`` has a line for each group of responses, so that a run only ever appends to it; a row's
rate is the share over all of its lines. Groups that a resumed run answers anew are there twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from llmrl.errors import DataError, RecipeError, shown

FILE = "pass_rates.jsonl"

BEGINNING = b'{"id": "'
"""First bytes of every line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """The number of right responses to one prompt."""

    id: str
    """Id of the prompt, ``source/row``."""
    solved: int
    judged: int
    """Number of the policy's responses that were scored, right or wrong; never fewer than ``solved``."""

    def __post_init__(self) -> None:
        numbers = type(self.solved), type(self.judged)
        if type(self.id) is not str or numbers != (int, int) or not 0 <= self.solved <= self.judged:
            raise ValueError(f"no pass rate of {self.id!r}: solved {self.solved!r} of {self.judged!r}")


def append_pass_rates(path: Path, rates: Iterable[PassRate]) -> None:
    """Append a line for each rate; without any, the file is not touched."""
    lines = "".join(f"{json.dumps(asdict(rate))}\n" for rate in rates)
    if lines:
        with path.open("a", encoding="ascii") as file:
            # A run that was killed while writing has left half a line.
            file.write(lines if _ends_whole(path) else f"\n{lines}")


def read_pass_rates(path: Path, *, key: str) -> Mapping[str, float]:
    """The share of solved responses by prompt id, without prompts that were never judged.

    Args:
        key: the file's key in the recipe, such as ``prompts.sources.0.pass_rates``.
    Raises:
        RecipeError: the file cannot be opened.
        DataError: a line is not what :func:`append_pass_rates` writes.
    """
    try:
        lines = path.expanduser().read_bytes().splitlines()
    except OSError as error:
        raise RecipeError(
            f"{key}: {shown(str(path))} cannot be read ({error.strerror}); "
            f"name the {FILE} in a stage's folder of an earlier run."
        ) from error
    solved, judged = dict[str, int](), dict[str, int]()
    for number, line in enumerate(lines, start=1):
        if _is_half(line):
            continue
        rate = _parsed(line, f"{path}, line {number}")
        solved[rate.id] = solved.get(rate.id, 0) + rate.solved
        judged[rate.id] = judged.get(rate.id, 0) + rate.judged
    return {id: solved[id] / count for id, count in judged.items() if count}


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() in (b"", b"\n")


def _is_half(line: bytes) -> bool:
    """Whether a line was being written when the run was killed."""
    return BEGINNING.startswith(line) or (line.startswith(BEGINNING) and not line.endswith(b"}"))


def _parsed(line: bytes, place: str) -> PassRate:
    try:
        return PassRate(**json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f'{place}: expected {{"id": ..., "solved": ..., "judged": ...}} as a run writes it, '
            f"got {shown(line.decode(errors='replace'))}; correct or remove the line."
        ) from error
