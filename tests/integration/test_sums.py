"""Micro-batches in bfloat16 add up in float32 where gradients are sharded: not one is lost in the sum."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Source, Stage

# Beyond 256 a bfloat16 can no longer be counted up one by one.
TIMES = 400


@pytest.fixture(scope="module")
def norms(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("sums")
    cells = {
        str(zero): Stage(
            model=Model(path=str(tiny_model), dtype="bfloat16", context_tokens=64),
            prompts=Prompts(sources=(Source(task="digit_sum"),)),
            objective=Choice(name="grpo"),
            optimizer=Optimizer(steps=1),
            policy=Policy(zero_stage=zero),
        ).model_dump(mode="json")
        for zero in (2, 3)
    }
    (folder / "cells.json").write_text(json.dumps(cells))
    script = str(Path(__file__).with_name("sum_rank.py"))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
    subprocess.run([sys.executable, script, str(folder), str(TIMES)], env=env, timeout=240, check=True)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("zero", [2, 3])
def test_equal_micro_batches_are_so_many_times_as_large(norms: dict[str, list[float]], zero: int) -> None:
    once, many = norms[str(zero)]

    assert many == pytest.approx(TIMES * once, rel=1e-4)
