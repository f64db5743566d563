"""What vLLM's engine tells its workers of weights, in values that its wire carries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from llmrl.weights.bundle import Probe, TensorSpec, Way, WeightBundle

BACKEND = "llmrl"
"""Under this name vLLM knows our transfer."""

SPECS = TypeAdapter(tuple[TensorSpec, ...])
UNPROVEN = Probe(tokens=np.empty(0, np.int32), logp=np.empty(0, np.float32))


def told(bundle: WeightBundle) -> dict[str, Any]:
    """The fields of an ``Update``, which are what ``heard`` takes."""
    return {
        "version": bundle.version,
        "base": bundle.base,
        "kept": bundle.kept,
        "way": bundle.way,
        "place": str(bundle.place),
        "specs": [asdict(spec) for spec in bundle.specs],
    }


def heard(
    *, version: int, base: int | None, kept: bool, way: Way, place: str, specs: list[dict[str, Any]]
) -> WeightBundle:
    """The bundle again, but for its proof, which is the engine's business."""
    return WeightBundle(
        version=version,
        base=base,
        kept=kept,
        way=way,
        place=Path(place),
        machine=None,
        specs=SPECS.validate_python(specs),
        probe=UNPROVEN,
    )
