"""A test vector as in its JSON file: settings, inputs, and the outputs of other people's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.errors import DataError

INDEX = "INDEX.json"
"""File that lists a folder's vectors, and is not one."""


class Unknown(Exception):
    """A vector asks for something that is not supported; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One file; numbers are float64, masked positions may hold anything."""

    name: str
    config: Mapping[str, Any]
    """Options of the method, in its authors' terms."""
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def __contains__(self, column: str) -> bool:
        return column in self.inputs

    def tensor(self, column: str) -> Tensor:
        """An input as float64.

        Raises:
            Unknown: the vector has no such input.
        """
        if column not in self.inputs:
            raise Unknown(f"inputs.{column} is missing")
        return as_tensor(self.inputs[column])

    def setting(self, *names: str) -> Any:
        """The first of these settings that the vector has.

        Raises:
            Unknown: the vector has none of them.
        """
        for name in names:
            if name in self.config:
                return self.config[name]
        raise Unknown(f"config.{' or config.'.join(names)} is missing")


def as_tensor(values: object) -> Tensor:
    """Numbers or nested lists of numbers as float64."""
    return torch.tensor(values, dtype=torch.float64)


def read_folder(folder: Path) -> list[Vector]:
    """Every vector of a folder, by name.

    Raises:
        DataError: there is no such folder, it has no vectors, or a file is not a vector.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one with a JSON file for each vector.")
    files = sorted(path for path in folder.glob("*.json") if path.name != INDEX)
    if not files:
        raise DataError(f"{folder}: no vectors here; give a folder with a JSON file for each vector.")
    return [_read(path) for path in files]


def _read(path: Path) -> Vector:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}.") from None
    parts: list[Any] = [content.get(part) if isinstance(content, dict) else None for part in PARTS]
    if not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path}: a vector is a table with the tables {', '.join(PARTS)}.")
    config, inputs, outputs = parts
    return Vector(name=path.stem, config=config, inputs=inputs, outputs=outputs)


PARTS = ("config", "inputs", "outputs")
