"""Each way of training runs to its end: adapters, half precision, turns, a reference, offload, engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmrl.policy.model import prepare_model
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Model
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe

RECIPE = """
[run]
folder = "{folder}"
[model]
path = "{model}"
context_tokens = 24
[prompts]
sources = [{{ task = "digit_sum", rows = 64 }}]
per_step = 4
max_tokens = 8
[rollouts]
per_prompt = 4
max_tokens = 16
temperature = 0.9
[rewards.short]
kind = "length"
options = {{ max_tokens = 16 }}
[rewards.ended]
kind = "finished"
[report]
trackers = []
[objective]
name = "grpo"
[optimizer]
steps = 3
lr = 1e-3
"""

VARIANTS = {
    "adapters": ["model.lora.rank=4", "engines.max_lag=0", "weights.transport=broadcast"],
    "half-precision": [
        'model.dtype="bfloat16"',
        "model.gradient_checkpointing=true",
        "policy.zero_stage=2",
        "weights.delta=true",
        "weights.transport=broadcast",
    ],
    "in-turn": [
        "cluster.placement=shared",
        "objective.options.kl_weight=0.1",
        "policy.zero_stage=2",
        "weights.delta=true",
    ],
    "offload": [
        "engines.kind=torch",
        "policy.offload=cpu",
        "policy.zero_stage=3",
        "optimizer.weight_decay=0.1",
    ],
    "reference": [
        "engines.kind=torch",
        "engines.max_lag=2",
        "correction.name=masked",
        "objective.options.kl_weight=0.1",
        "optimizer.schedule=cosine",
        "policy.zero_stage=0",
    ],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_three_steps_move_the_weights_and_engines_follow(tmp_path: Path, tiny_model: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(RECIPE.format(folder=tmp_path / "runs", model=tiny_model))

    # Every sync along the way is proven by the probe, the first step by the parity gate.
    train_recipe(load_recipe(path, VARIANTS[name]))

    stage = tmp_path / "runs" / name / "0-train"
    steps = read_journal(stage / "metrics.jsonl").steps
    if name == "half-precision":
        # A sync is told of in the step in which it ends; max_lag = 1 lets the first end before step 3.
        shares = [step.metrics["sync/changed"] for step in steps if "sync/changed" in step.metrics]
        assert shares
        assert all(0 < share < 1 for share in shares)
    assert [step.version for step in steps] == [1, 2, 3]
    assert all(step.metrics["policy/grad_norm"] > 0 and not step.metrics["policy/skipped"] for step in steps)
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(stage / "model" / "model.safetensors"),
    )
    moved = {key for key in before if not torch.equal(before[key].to(after[key].dtype), after[key])}
    assert before.keys() == after.keys()
    assert ("model.norm.weight" in moved) == (name != "adapters")
    assert "model.layers.1.mlp.up_proj.weight" in moved
    assert "library_name: transformers" in (stage / "model" / "README.md").read_text()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts, whose matrices are one tensor in memory and many in the folder and in vLLM."""
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "initializer_range": 0.2,
    }
    model = Model(config=config, characters="0123456789+=,#", context_tokens=32)
    return prepare_model(model, folder=tmp_path_factory.mktemp("model") / "experts", seed=0)


EXPERTS = {
    "experts": ["policy.zero_stage=3", "policy.ranks=2", "weights.delta=true"],
    "experts-adapters": ['model.lora.targets=["q_proj", "v_proj"]'],
    "experts-torch": ["engines.kind=torch", "weights.transport=broadcast"],
}


@pytest.mark.parametrize("name", EXPERTS)
def test_a_mixture_of_experts_moves_and_engines_follow(tmp_path: Path, experts: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(RECIPE.format(folder=tmp_path / "runs", model=experts))

    # Every sync along the way is proven by the probe, the first step by the parity gate.
    train_recipe(load_recipe(path, EXPERTS[name]))

    folders = experts, tmp_path / "runs" / name / "0-train" / "model"
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert before.keys() == after.keys()
    assert "model.layers.1.self_attn.q_proj.weight" in moved
    assert any(".mlp.experts." in key for key in moved) == (name != "experts-adapters")
