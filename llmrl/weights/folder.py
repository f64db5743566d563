"""Weights in a folder that others can read: safetensors files, and a manifest that describes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from llmrl.errors import WeightSyncError
from llmrl.weights.bundle import Mapped, Probe, TensorSpec, WeightBundle
from llmrl.weights.header import read_header
from llmrl.weights.parcel import Parcel, tensor_of
from llmrl.weights.seal import described, flush
from llmrl.weights.store import Written

MANIFEST = "manifest.json"
SPECS = TypeAdapter(tuple[TensorSpec, ...])


class FolderStore:
    """A folder per version, which appears complete or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """Write a file for every bucket, under a name that no engine reads yet."""
        unfinished = self._unfinished(version)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        specs: list[TensorSpec] = []
        for number, bucket in enumerate(bucket for bucket in buckets if bucket):
            path = unfinished / f"weights-{number:05d}.safetensors"
            save_file({_key(parcel): tensor_of(parcel.at(0), parcel.host) for parcel in bucket}, path)
            header = read_header(path)
            specs += [parcel.at(header[_key(parcel)].start, file=path.name) for parcel in bucket]
        return Written(specs=tuple(specs), way=Mapped(place=self._place(version)))

    def seal(self, bundle: WeightBundle) -> None:
        """Describe the files, make sure that they are on the disk, and give the folder its name."""
        unfinished, place = self._unfinished(bundle.version), self._place(bundle.version)
        files = {path.name: described(path) for path in sorted(unfinished.glob("*.safetensors"))}
        (unfinished / MANIFEST).write_text(json.dumps(_told(bundle) | {"files": files}))
        for path in (*unfinished.iterdir(), unfinished):
            flush(path)
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
        flush(self._folder)

    def release(self, version: int) -> None:
        """Delete a version that every engine of the run has taken."""
        shutil.rmtree(self._place(version), ignore_errors=True)

    def _place(self, version: int) -> Path:
        return self._folder / f"{version:06d}"

    def _unfinished(self, version: int) -> Path:
        return self._folder / f"{version:06d}.unfinished"


def read_folder(place: Path) -> WeightBundle:
    """The bundle that was sealed in a folder of one version, with every byte checked.

    Raises:
        WeightSyncError: there is no manifest, or a file differs from it.
    """
    try:
        told: dict[str, Any] = json.loads((place / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise WeightSyncError(
            f"{place} has no readable {MANIFEST} ({error}); is weights.folder shared by all machines?"
        ) from error
    for name, sealed in told["files"].items():
        path = place / name
        if not path.exists() or described(path) != sealed:
            raise WeightSyncError(f"{path} is not what {MANIFEST} says ({sealed}); send the weights again.")
    probe = told["probe"]
    return WeightBundle(
        version=told["version"],
        base=told["base"],
        kept=told["kept"],
        changed=told["changed"],
        specs=SPECS.validate_python(told["specs"]),
        left_out=frozenset(told["left_out"]),
        way=Mapped(place=place),
        probe=Probe(tokens=np.array(probe["tokens"], np.int32), logp=np.array(probe["logp"], np.float32)),
    )


def _told(bundle: WeightBundle) -> dict[str, Any]:
    return {
        "version": bundle.version,
        "base": bundle.base,
        "kept": bundle.kept,
        "changed": bundle.changed,
        "probe": {"tokens": bundle.probe.tokens.tolist(), "logp": bundle.probe.logp.tolist()},
        "specs": [asdict(spec) for spec in bundle.specs],
        "left_out": sorted(bundle.left_out),
    }


def _key(parcel: Parcel) -> str:
    return parcel.name if parcel.part == "whole" else f"{parcel.name}#{parcel.part}"
