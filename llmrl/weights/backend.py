"""The messages about weights from vLLM's engine to its workers, in values that vLLM's wire carries."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from llmrl.weights.bundle import (
    Broadcast,
    Handle,
    Mapped,
    OnDevice,
    Part,
    Probe,
    TensorSpec,
    Way,
    WeightBundle,
)

BACKEND = "llmrl"
"""Name under which vLLM knows our transfer."""

COLUMNS = attrgetter("name", "dtype", "start", "stop", "part", "file")
UNPROVEN = Probe(tokens=np.empty(0, np.int32), logp=np.empty(0, np.float32))


def told(bundle: WeightBundle) -> dict[str, Any]:
    """The fields of an ``Update`` for a bundle, which ``heard`` takes."""
    return {
        "version": bundle.version,
        "base": bundle.base,
        "kept": bundle.kept,
        "way": _told(bundle.way),
        "specs": [(*COLUMNS(spec), *spec.shape) for spec in bundle.specs],
        "left_out": sorted(bundle.left_out),
    }


def heard(
    *,
    version: int,
    base: int | None,
    kept: bool,
    way: list[Any],
    specs: list[list[Any]],
    left_out: list[str],
) -> WeightBundle:
    """Rebuild the bundle without its proof, which only the engine needs."""
    return WeightBundle(
        version=version,
        base=base,
        kept=kept,
        way=_heard(way),
        specs=tuple(_spec(*columns) for columns in specs),
        left_out=frozenset(left_out),
        probe=UNPROVEN,
    )


def _told(way: Way) -> tuple[Any, ...]:
    match way:
        case Mapped(place=place):
            return "mapped", str(place)
        case Broadcast():
            return ("broadcast",)
        case OnDevice(handles=handles):
            return "on device", *((one.device, one.size, one.storage, one.event) for one in handles)


def _heard(way: list[Any]) -> Way:
    match way:
        case ["mapped", place]:
            return Mapped(place=Path(place))
        case ["broadcast"]:
            return Broadcast()
        case ["on device", *handles]:
            return OnDevice(handles=tuple(_handle(*columns) for columns in handles))
        case _:
            raise ValueError(f"weights came by no known way: {way}")


def _spec(name: str, dtype: str, start: int, stop: int, part: Part, file: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, start=start, stop=stop, part=part, file=file, shape=shape)


def _handle(device: str, size: int, storage: list[Any], event: list[Any]) -> Handle:
    key, length, start = storage
    counter, place, written, waits = event
    return Handle(
        device=device, size=size, storage=(key, length, start), event=(counter, place, written, waits)
    )
