"""A program with the openai client as the environment of a whole run: recipes/agents, reduced."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "agents"
REDUCED = (
    'engines.kind="torch"',
    "cluster.threads_per_process=1",
    "report.trackers=[]",
    "evaluation.sources=[]",
    "stages.warm.optimizer.steps=100",
    "stages.train.optimizer.steps=2",
    "stages.train.prompts.per_step=8",
)


def test_a_program_trains_the_policy_through_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For this process, and for those that it starts.
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))

    train_recipe(load_recipe(FOLDER / "sums.toml", [*REDUCED, f"run.folder={tmp_path}"]))

    first, last = read_journal(tmp_path / "sums" / "1-train" / "metrics.jsonl").steps
    for step in (first, last):
        assert step.metrics["policy/grad_norm"] > 0
        assert step.metrics["policy/skipped"] == 0
        assert step.metrics["rollout/aborted_rate"] == 0
        assert step.metrics["rollout/responses"] == 64
    # What the endpoint kept is what the trainer says of the same tokens.
    assert abs(first.metrics["policy/kl_sampled"]) < 1e-5
