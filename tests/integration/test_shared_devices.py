"""Engines and ranks on the same devices, in turn: nothing stays behind, and nothing is changed by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llmrl.cluster.connection import connect
from llmrl.errors import LlmrlError
from llmrl.policy.model import prepare_model
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Choice, Cluster, Engines, Model, Optimizer, Policy, Prompts, Source, Stage
from llmrl.report.journal import read_journal
from llmrl.run.hiring import hired
from llmrl.run.start import train_recipe

MODEL = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found, by ZeRO stage."""
    folder = tmp_path_factory.mktemp("attic")
    model = Model(config=MODEL, characters="0123456789+=,#", context_tokens=64)
    path = prepare_model(model, folder=folder / "model", seed=0)
    stage = Stage(
        model=Model(path=str(path), context_tokens=64, dtype="bfloat16"),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="sft"),
        optimizer=Optimizer(steps=2, lr=1e-3),
        policy=Policy(ranks=2),
    )
    (folder / "stage.json").write_text(stage.model_dump_json())
    script = str(Path(__file__).with_name("attic_rank.py"))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), "2", str(folder)], env=env) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=250) for rank in ranks] == [0, 0]
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("level", ["0", "1", "2", "3"])
def test_a_rank_that_leaves_gives_everything_up_and_trains_on_as_if_it_had_stayed(
    told: list[dict[str, Any]], level: str
) -> None:
    for rank in told:
        before, after = rank[level]["bytes a parameter"]
        # At least its half of the weights in bfloat16 and float32, and of both moments.
        assert before > (2 + 4 + 8) / 2
        assert after < 0.2
    assert told[0][level]["same"]
    assert told[0][level]["tensors"] > 20


RECIPE = """
[run]
folder = "{folder}"
[model]
path = "{model}"
context_tokens = 32
[prompts]
sources = [{{ task = "digit_sum", rows = 64 }}]
per_step = 4
max_tokens = 8
[rollouts]
per_prompt = 4
max_tokens = 16
[engines]
kind = "torch"
max_sequences = 4  # each group is a batch: the last bits of a logprob depend on who is beside whom
[rewards.short]
kind = "length"
options = {{ max_tokens = 16 }}
[report]
trackers = []
[objective]
name = "grpo"
options = {{ kl_weight = 0.1 }}
[optimizer]
steps = 4
lr = 1e-3
[evaluation]
sources = [{{ task = "digit_sum", rows = 4, skip = 64 }}]
every_steps = 2
[checkpoints]
every_steps = 2
"""


def weights(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


def test_a_run_in_turn_ends_with_the_very_weights_of_one_on_devices_of_their_own(
    tmp_path: Path, tiny_model: Path
) -> None:
    stages = {}
    for placement in ("split", "shared"):
        path = tmp_path / f"{placement}.toml"
        path.write_text(RECIPE.format(folder=tmp_path / "runs", model=tiny_model))
        lag = ["engines.max_lag=0"] if placement == "split" else []
        train_recipe(load_recipe(path, [f"cluster.placement={placement}", *lag]))
        stages[placement] = tmp_path / "runs" / placement / "0-train"

    split, shared = (weights(stages[placement] / "model") for placement in ("split", "shared"))
    start = weights(tiny_model)
    assert all(np.array_equal(split[name], shared[name]) for name in start)
    assert any(not np.array_equal(shared[name], start[name]) for name in start)
    evaluations = [read_journal(stage / "metrics.jsonl").evaluations for stage in stages.values()]
    assert [[one.version for one in run] for run in evaluations] == [[0, 2, 4]] * 2


@pytest.mark.asyncio
async def test_an_engine_that_dies_in_its_sleep_is_named_when_it_is_needed(
    tmp_path: Path, tiny_model: Path
) -> None:
    stage = Stage(
        model=Model(path=str(tiny_model), context_tokens=64),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        engines=Engines(kind="torch", max_lag=0),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        cluster=Cluster(placement="shared", device="cpu"),
    )
    with (
        connect(stage.cluster),
        pytest.raises(LlmrlError, match=r"engine-0\.load failed because its process died"),
    ):
        await die_asleep(stage, tmp_path)


async def die_asleep(stage: Stage, logs: Path) -> None:
    async with hired(stage, seed=0, plugins=(), engines=True, build=None, logs=logs) as crew:
        (await crew.deliver(crew.post(0))).taken()
        await crew.policy("devices")
        assert crew.devices.asleep
        crew.engines[0].kill()
        (await crew.deliver(crew.post(1))).taken()
