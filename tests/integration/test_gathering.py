"""A sharded model is sent bucket by bucket: no rank ever holds all of it, and every byte arrives."""

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

from llmrl.policy.model import prepare_model
from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Source, Stage, Weights

MIB = 2**20
BUCKET_MIB = 2
MODEL = {
    "model_type": "qwen3",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
"""44 MiB in float32, and no tensor above a bucket of 2 MiB."""


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gathering")
    model = Model(config=MODEL, characters="0123456789+=,#", context_tokens=64)
    path = prepare_model(model, folder=folder / "model", seed=0)
    stage = Stage(
        model=Model(path=str(path), context_tokens=64),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        policy=Policy(ranks=2, zero_stage=3),
        weights=Weights(bucket_mib=BUCKET_MIB),
    )
    (folder / "stage.json").write_text(stage.model_dump_json())
    script = str(Path(__file__).with_name("gather_rank.py"))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), "2", str(folder)], env=env) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    return folder


def found(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"found-{rank}.json").read_text())


def test_what_is_complete_at_once_fits_the_bucket_on_every_rank(sent: Path) -> None:
    for rank in (0, 1):
        complete = found(sent, rank)["complete"]

        assert len(complete) > 20
        assert max(complete) <= BUCKET_MIB * MIB


def test_the_peak_memory_of_a_sync_is_bounded_by_the_bucket_and_not_by_the_model(sent: Path) -> None:
    whole = sum(tensor.nbytes for tensor in load_file(sent / "model" / "model.safetensors").values())

    assert whole > 40 * MIB
    for rank in (0, 1):
        # A process grows by other things too, by 4 to 12 MiB here; what is whole is bounded above.
        assert found(sent, rank)["grown_mib"] < whole / MIB / 2


def test_every_tensor_arrives_bit_for_bit(sent: Path) -> None:
    stored = load_file(sent / "model" / "model.safetensors")

    with np.load(sent / "sent.npz") as arrived:
        assert set(arrived.files) == set(stored)
        assert all(np.array_equal(arrived[name], tensor) for name, tensor in stored.items())
