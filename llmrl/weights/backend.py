"""What vLLM's engine tells its workers of complete weights, in values that its wire carries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from llmrl.weights.bundle import TensorSpec, WeightBundle

BACKEND = "llmrl-mapped"
"""Under this name vLLM knows the transfer that maps them."""

SPECS = TypeAdapter(list[TensorSpec])


def told(bundle: WeightBundle) -> dict[str, Any]:
    """The fields of a ``MappedUpdate``."""
    return {"place": str(bundle.place), "specs": [asdict(spec) for spec in bundle.specs]}


def heard(specs: list[dict[str, Any]]) -> list[TensorSpec]:
    """The records again; the wire knows lists only."""
    return SPECS.validate_python(specs)
