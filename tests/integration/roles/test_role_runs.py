"""Roles in whole runs: a reward model trains the policy, and one that dies ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.errors import RewardError
from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe

RECIPE = """
plugins = [{plugins}]

[run]
name = "roles"
folder = "{folder}"

[model]
characters = "0123456789+=,#"
context_tokens = 32
config = {{ model_type = "qwen3", hidden_size = 32, intermediate_size = 64, num_hidden_layers = 1, \
num_attention_heads = 2, num_key_value_heads = 1, head_dim = 32, tie_word_embeddings = true }}

[prompts]
sources = [{{ task = "digit_sum", rows = 64 }}]
per_step = 8
max_tokens = 8

[rollouts]
per_prompt = 8
max_tokens = 8

[engines]
kind = "torch"
max_lag = 0

[roles.sevens]
path = "{model}"
kind = "{kind}"
count = {count}

[rewards.sevens]
kind = "{reward}"
options = {{ role = "sevens" }}

[report]
trackers = []

[objective]
name = "grpo"

[optimizer]
steps = {steps}
lr = 1e-2
"""


def recipe(folder: Path, **values: object) -> Path:
    given = {"plugins": "", "kind": "classify", "reward": "classifier", "count": 1, "folder": folder} | values
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(**given))
    return path


def test_a_policy_learns_what_a_reward_model_likes(tmp_path: Path, likes_sevens: Path) -> None:
    train_recipe(load_recipe(recipe(tmp_path, model=likes_sevens, steps=12)))

    folder = tmp_path / "roles" / "0-train"
    steps = read_journal(folder / "metrics.jsonl").steps
    first, last = (step.metrics["reward/mean"] for step in (steps[0], steps[-1]))
    assert first < 0.25
    assert last > 0.5
    assert all(step.metrics["judgement/error_rate/sevens"] == 0 for step in steps)
    assert {path.name for path in (folder / "logs").iterdir()} >= {"sevens-0.log"}


def test_a_role_that_dies_costs_its_responses_and_then_the_run_in_a_sentence_that_names_it(
    tmp_path: Path, likes_sevens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = str(Path(__file__).parent / "plugins")
    monkeypatch.syspath_prepend(plugins)
    values = {"plugins": '"mortal_role"', "kind": "mortal", "reward": "mortal", "count": 2}
    path = recipe(tmp_path, model=likes_sevens, steps=12, **values)

    with pytest.raises(RewardError) as caught:
        train_recipe(load_recipe(path))

    # The two processes die after 100 answers each, 64 make a step; the last step is judged only in part.
    assert len(read_journal(tmp_path / "roles" / "0-train" / "metrics.jsonl").steps) == 3
    assert "64 judgements of a step failed" in str(caught.value)
    assert "rewards.sevens raised ServiceError: role 'sevens' failed: status 503" in str(caught.value)
    assert "sevens-" in str(caught.value)
    assert "its process died" in str(caught.value)
