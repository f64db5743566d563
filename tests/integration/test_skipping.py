"""Steps whose loss or gradient is not finite, on the real optimizers: they are seen, and leave no trace."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Choice, Lora, Model, Optimizer, Policy, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.rollout import Rollout, RolloutGroup

TEMPERATURE = 0.01
BROKEN = {"loss": 3e38, "gradient": 1e37}
"""Advantages by what they break. The correction doubles them, which is too much for float32 at once for the
first; of the second only the gradient is, where the temperature divides it."""
Cell = tuple[int, str, bool, str]
CELLS: list[Cell] = [
    (zero, dtype, lora, "none")
    for zero in range(4)
    for dtype in ("float32", "bfloat16")
    for lora in (False, True)
] + [(zero, "bfloat16", False, "cpu") for zero in (1, 2, 3)]


def name_of(zero: int, dtype: str, lora: bool, offload: str) -> str:
    return f"zero{zero}-{dtype}-{'adapters' if lora else 'whole'}-offload-{offload}"


def experiences(advantage: float) -> list[Experience]:
    """A group of two: what one gains the other loses."""
    rollouts = tuple(
        Rollout(
            tokens=np.array(tokens, np.int32),
            logp=np.full(3, -1e4, np.float32),
            version=np.zeros(3, np.int32),
            trained=np.ones(3, np.bool_),
            turn=np.zeros(3, np.int32),
            stop="stop",
            text="",
        )
        for tokens in ([5, 6, 7], [8, 9, 10])
    )
    prompt = Prompt(id="p/0", tokens=np.array([3, 4], np.int32), text="", answer=None, source="p")
    advantages = tuple(np.full(3, sign * advantage, np.float32) for sign in (1, -1))
    group = RolloutGroup(ordinal=0, prompt=prompt, rollouts=rollouts)
    return [Experience(group=group, judgements=(), advantages=advantages, lag=0)]


def stage(model: Path, zero: int, dtype: str, lora: bool, offload: str) -> Stage:
    return Stage(
        model=Model(
            path=str(model),
            dtype=dtype,  # type: ignore[arg-type]
            context_tokens=64,
            lora=Lora(rank=2) if lora else None,
        ),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        rollouts=Rollouts(temperature=TEMPERATURE),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1, lr=1e-2, weight_decay=0.1),
        policy=Policy(zero_stage=zero, offload=offload),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("skipping")
    steps = {kind: experiences(advantage) for kind, advantage in BROKEN.items()}
    (folder / "steps.pickle").write_bytes(pickle.dumps(steps | {"healthy": experiences(1.0)}))
    cells = {name_of(*cell): stage(tiny_model, *cell).model_dump(mode="json") for cell in CELLS}
    (folder / "cells.json").write_text(json.dumps(cells))
    script = str(Path(__file__).with_name("skip_rank.py"))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
    subprocess.run([sys.executable, script, str(folder)], env=env, timeout=240, check=True)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: name_of(*cell))
def test_a_step_that_is_not_finite_counts_as_skipped(found: dict[str, Any], cell: Cell, kind: str) -> None:
    metrics = found[name_of(*cell)]["broken"][kind]

    assert metrics["policy/skipped"] == 1
    assert np.isfinite(metrics["policy/loss"]) == (kind == "gradient")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: name_of(*cell))
def test_skipped_steps_leave_no_trace(found: dict[str, Any], cell: Cell) -> None:
    seen = found[name_of(*cell)]

    assert seen["unmoved"]
    # The next update is made, and is the one of a policy that met no broken step.
    assert seen["healthy"]["policy/skipped"] == 0
    assert seen["equal"]
    assert seen["adam"] == [1.0]
