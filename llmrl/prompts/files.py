"""Text files of rows: JSONL, JSON and CSV, gzipped or not; an error names file, line and column."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from llmrl.errors import DataError, shown

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line; a longer one is no row of text but a damaged file or a decompression bomb."""

UTF8_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row as it was found."""

    place: str
    """File and line of the row, for messages."""
    fields: Mapping[str, object]


def read_jsonl(path: Path) -> Iterator[Record]:
    """Read one JSON object per line; blank lines are skipped."""
    for number, line in _lines(path):
        if line.strip():
            place = f"{path}, line {number}"
            yield Record(place=place, fields=_row(_parsed(line, place, hint=JSONL_HINT), place))


def read_json(path: Path) -> Iterator[Record]:
    """Read one JSON array of objects."""
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    rows = _parsed(text, str(path), hint="The file must hold one array of objects.")
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: the file must hold one array of objects, got {_kind(rows)}; "
            f"a file with one object per line ends in .jsonl."
        )
    for number, value in enumerate(cast("list[object]", rows), start=1):
        place = f"{path}, row {number}"
        yield Record(place=place, fields=_row(value, place))


def read_csv(path: Path) -> Iterator[Record]:
    """Read comma-separated cells under one line of column names; an empty cell is null."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(reader, list[str]())
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(
                f"{path}, line 1: column {shown(twice[0])} occurs more than once; rename one of them."
            )
        for cells in filter(None, reader):
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"{place}: the row has {len(cells)} cells and the header {len(header)}; "
                    f"put cells that contain commas or line breaks in double quotes."
                )
            yield Record(
                place=place, fields={name: cell or None for name, cell in zip(header, cells, strict=True)}
            )
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); correct or remove the row."
        ) from error


TEXT_FORMATS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
}
"""Reader for each file ending, which ``.gz`` may follow."""

JSONL_HINT = "Each line must be one JSON object."


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line, decoded, with its number from 1; byte offsets in messages are those of the unzipped text."""
    offset = number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield number, _decoded(line, path, number, offset)
                offset += len(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip file is damaged or cut off after line {number} ({error}); copy it again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}); check its permissions."
        ) from error


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _decoded(line: bytes, path: Path, number: int, offset: int) -> str:
    if number == 1 and line.startswith(OTHER_MARKS):
        raise DataError(f"{path}: the file is UTF-16 or UTF-32 text; save it as UTF-8.")
    if len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"{path}, line {number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; split it into rows."
        )
    if b"\0" in line:
        at = offset + line.index(b"\0")
        raise DataError(
            f"{path}, line {number}: NUL byte at byte offset {at}; remove it, or save the file as UTF-8."
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise DataError(
            f"{path}, line {number}: invalid UTF-8 at byte offset {at} ({line[error.start]:#04x}); "
            "save the file as UTF-8."
        ) from error
    return text.removeprefix("\ufeff") if number == 1 else text


def _parsed(text: str, place: str, *, hint: str) -> object:
    try:
        return cast("object", json.loads(text, object_pairs_hook=_unique))
    except json.JSONDecodeError as error:
        line = "" if error.lineno == 1 else f", line {error.lineno}"
        raise DataError(
            f"{place}{line}, column {error.colno}: not valid JSON ({error.msg}). {hint}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({error}). {hint}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs more than once in an object")
    return row


def _row(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(
            f'{place}: the row must be a JSON object, got {_kind(value)}; write {{"prompt": ...}}.'
        )
    return cast("dict[str, object]", value)


def _kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), "a number")
