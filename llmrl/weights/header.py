"""Where the tensors of safetensors files lie, read from the headers alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from llmrl.errors import ModelError
from llmrl.weights.bundle import TensorSpec

INDEX = "model.safetensors.index.json"

LENGTH = struct.Struct("<Q")
"""First bytes of a file: the length of its header."""

DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16", "U32": "uint32"}
"""Our names of safetensors' dtypes; others keep the names that safetensors gives them."""


def read_headers(folder: Path) -> dict[str, TensorSpec]:
    """Every tensor of a folder's files by its name, with its offset in the file.

    Raises:
        ModelError: there is no such file, or one of them is cut short or has no readable header.
    """
    found: dict[str, TensorSpec] = {}
    for path in _files(folder):
        found |= read_header(path)
    if not found:
        raise ModelError(f"{folder}: no *.safetensors file; save the model with save_pretrained.")
    return found


def _files(folder: Path) -> list[Path]:
    """The files that transformers reads: others may have the same weights under other names."""
    one, index = folder / "model.safetensors", folder / INDEX
    if one.exists():
        return [one]
    if index.exists():
        shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({folder / name for name in shards.values()})
    return sorted(folder.glob("*.safetensors"))


def read_header(path: Path) -> dict[str, TensorSpec]:
    """The tensors of one file.

    Raises:
        ModelError: the file is cut short or has no readable header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH.size)
        length = LENGTH.unpack(first)[0] if len(first) == LENGTH.size else size
        text = file.read(length) if LENGTH.size + length <= size else b""
    try:
        entries: dict[str, Any] = json.loads(text)
        begin = LENGTH.size + length
        specs = {
            name: _spec(name, entry, begin, path.name)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
        end = max(spec.stop for spec in specs.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{path.name} in {path.parent} has no readable header; copy the file again."
        ) from None
    if end != size:
        raise ModelError(
            f"{path.name} in {path.parent} has {size} bytes, its header says {end}; copy the file again."
        )
    return specs


def _spec(name: str, entry: dict[str, Any], begin: int, file: str) -> TensorSpec:
    start, stop = entry["data_offsets"]
    dtype: str = entry["dtype"]
    return TensorSpec(
        name=name,
        shape=tuple(entry["shape"]),
        dtype=DTYPES.get(dtype, dtype),
        start=begin + start,
        stop=begin + stop,
        file=file,
    )
