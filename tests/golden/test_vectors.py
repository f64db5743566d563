"""``llmrl check vectors`` agrees with every shared vector, and with the same numbers in another shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrl.vectors import Vector, Verdict, check_folder, check_vector, read_folder


def outcomes(verdicts: list[Verdict]) -> dict[str, int]:
    return {kind: sum(v.outcome == kind for v in verdicts) for kind in {v.outcome for v in verdicts}}


def widened(value: Any, width: int, filler: float) -> Any:
    """Every row of every [B, T] list longer by two places that hold the filler."""
    if isinstance(value, dict):
        return {key: widened(one, width, filler) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) == width and not isinstance(value[0], list):
        return [*value, filler, filler]
    return [widened(one, width, filler) for one in value]


def wider(vector: Vector) -> Vector:
    """The same numbers with more padding, which holds garbage, under a mask that says so."""
    width = len(vector.inputs["logprobs"][0])
    columns: dict[str, Any] = {}
    for name, value in vector.inputs.items():
        filler = 0.0 if name in ("mask", "turn_mask") else -1 if name == "turn_ids" else -7.5
        columns[name] = widened(value, width, filler)
    return replace(vector, inputs=columns, outputs=widened(dict(vector.outputs), width, 0.0))


def test_all_64_core_vectors_agree_and_the_negative_one_differs(shared: Path) -> None:
    verdicts = list(check_folder(shared / "vectors" / "core"))

    assert [(v.name, v.note) for v in verdicts if v.outcome != "ok"] == []
    assert len(verdicts) == 64
    assert {v.name: v.by for v in verdicts}["dr_grpo_verl2025_pitfall"].startswith("differs, as it must")


def test_more_vectors_agree_where_llmrl_has_the_method(shared: Path) -> None:
    verdicts = list(check_folder(shared / "vectors" / "more"))

    assert [(v.name, v.note) for v in verdicts if not v.good] == []
    assert outcomes(verdicts)["ok"] >= 31


def test_vectors_of_another_size_agree(shared: Path) -> None:
    found = read_folder(shared / "vectors" / "core")
    sized = [v for v in found if "mask" in v.inputs or "turn_mask" in v.inputs]
    # The constant of this reduction is the width.
    sized = [v for v in sized if v.name not in ("agg_fully_masked_row", "microbatch_invariance")]

    verdicts = [check_vector(wider(vector)) for vector in sized]

    assert [(v.name, v.note) for v in verdicts if v.outcome != "ok"] == []
    assert len(verdicts) > 45


@pytest.mark.parametrize("option", ["clip_high", "clip_ratio_c"])
def test_settings_are_read_from_the_vector(shared: Path, option: str) -> None:
    found = {v.name: v for v in read_folder(shared / "vectors" / "core")}
    vector = found["ppo_dualclip_c3"]

    changed = check_vector(replace(vector, config={**vector.config, option: 1.1}))

    assert changed.outcome == "FAIL"
    assert changed.note.startswith("differs: loss, grad_logprobs")
