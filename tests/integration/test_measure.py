"""A calibration by real processes, and a plan that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.plan.measure import calibrate
from llmrl.plan.plan import Assumptions, make_plan
from llmrl.recipe.load import load_recipe

RECIPE = """
[model]
characters = "0123456789+=,#"
context_tokens = 32

[model.config]
model_type = "qwen3"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16

[prompts]
sources = [{ task = "digit_sum", rows = 200 }]
per_step = 4
max_tokens = 8

[rollouts]
per_prompt = 4
max_tokens = 16

[engines]
kind = "torch"
max_sequences = 16

[rewards.answer]
kind = "number"

[objective]
name = "grpo"

[optimizer]
steps = 10

[policy]
tokens_per_microbatch = 128
"""


IN_TURN = """
[cluster]
placement = "shared"
"""
LISTENED = """
[environment]
name = "running_sum"

[roles.judge]
path = "stage:earlier"
kind = "generate"
"""


@pytest.mark.parametrize("more", [IN_TURN, LISTENED], ids=["in turn", "apart, without environment and roles"])
def test_a_machine_is_measured_by_the_recipes_own_engine_and_policy(more: str, tmp_path: Path) -> None:
    lag = "max_lag = 0" if "shared" in more else ""
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("[engines]", f"[engines]\n{lag}") + more)
    recipe = load_recipe(tmp_path / "tiny.toml").recipe
    file = tmp_path / "calibration.json"

    found = calibrate(recipe, Assumptions())
    found.write(file)
    (plan,) = make_plan(recipe, Assumptions(calibration=file))

    # Whatever the machine: it decodes, trains and takes weights, and none of that is free.
    assert found.train > 0
    assert found.sync_s > 0
    assert found.step_s + found.sequence_s > 0
    assert plan.assumed[0].startswith(f"{1 if lag else 2} x cpu: measured, ")
    assert 0 < plan.recipe.step_s < 60
