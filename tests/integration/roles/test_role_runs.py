"""Roles in whole runs: a reward model that trains the policy, one that dies, and a simulated user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmrl.errors import RewardError
from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.checkpoint import read_state
from llmrl.run.start import train_recipe

FOLDER = Path(__file__).parents[3] / "recipes" / "dialogue"

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
    tmp_path: Path, likes_sevens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = str(Path(__file__).parent / "plugins")
    monkeypatch.syspath_prepend(plugins)
    values = {"plugins": '"mortal_role"', "kind": "mortal", "reward": "mortal", "count": 2}
    path = recipe(tmp_path, model=likes_sevens, steps=12, **values)

    with pytest.raises(RewardError) as caught:
        train_recipe(load_recipe(path))

    # The two processes die after 100 answers each, 64 make a step; the last step is judged only in part.
    stage = tmp_path / "roles" / "0-train"
    assert len(read_journal(stage / "metrics.jsonl").steps) == 3
    (saved,) = (stage / "checkpoints").iterdir()
    assert read_state(saved).step == 3
    assert "step 3 is saved; go on with llmrl train ... --resume" in capsys.readouterr().out
    assert "64 judgements of a step failed" in str(caught.value)
    assert "rewards.sevens raised ServiceError: role 'sevens' failed: status 503" in str(caught.value)
    assert "sevens-" in str(caught.value)
    assert "its process died" in str(caught.value)


def test_a_policy_trains_in_dialogue_with_the_model_that_an_earlier_stage_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    reduced = (
        f"run.folder={tmp_path}",
        "report.trackers=[]",
        "evaluation.sources=[]",
        "stages.warm.optimizer.steps=150",
        "stages.train.optimizer.steps=2",
        "stages.train.prompts.per_step=8",
        "stages.train.report.samples_every_steps=1",
    )

    train_recipe(load_recipe(FOLDER / "tiny.toml", reduced))

    folder = tmp_path / "tiny" / "1-train"
    for step in read_journal(folder / "metrics.jsonl").steps:
        assert step.metrics["policy/grad_norm"] > 0
        assert step.metrics["rollout/aborted_rate"] == 0
        assert step.metrics["judgement/error_rate"] == 0
        assert step.metrics["rollout/responses"] == 64
    # The frozen model asks for sums, as it was trained to.
    said = "".join(path.read_text() for path in (folder / "samples").iterdir())
    replies = re.findall(r"> (.*?)\\n", said)
    assert len(replies) > 16
    assert sum(bool(re.fullmatch(r"\+[0-9]=", reply)) for reply in replies) > 0.8 * len(replies)
