"""A claim's run without Ray is a run: the same engine, policy, loop and rewards, in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmrl.report.journal import read_journal

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own, as claims have it: ranks meet once in a process.
PROGRAM = """
import sys
from dataclasses import replace
from llmrl.recipe.load import load_recipe
from llmrl.run.start import train_recipe
from recipes.claims.here import everything_here
from recipes.claims.listed import CLAIMS

loaded = load_recipe(CLAIMS["groups"].recipe, sys.argv[1:])
improve = loaded.recipe.model_copy(update={"stages": loaded.recipe.stages[1:]})
with everything_here():
    train_recipe(replace(loaded, recipe=improve))
"""


def test_a_claims_recipe_runs_in_one_process(tmp_path: Path) -> None:
    few = ["stages.improve.optimizer.steps=2", "evaluation.prompts=4", "prompts.per_step=4"]
    overrides = [*few, "stages.improve.optimizer.warmup_steps=0", f'run.folder="{tmp_path}"']

    subprocess.run([sys.executable, "-c", PROGRAM, *overrides], cwd=ROOT, check=True, timeout=200)

    steps = read_journal(tmp_path / "groups" / "0-improve" / "metrics.jsonl").steps
    assert [step.step for step in steps] == [1, 2]
    assert all(step.metrics["lag/max"] == 0 for step in steps)
    assert steps[0].metrics["rollout/responses"] == 32
    assert (tmp_path / "groups" / "0-improve" / "model" / "model.safetensors").exists()
