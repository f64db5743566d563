"""What only the torch engine does: it runs whatever model the recipe trusts, and says how one failed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.errors import EngineError
from llmrl.recipe.schema import Engines, Model, Opponent
from llmrl.rollouts.engines import Request, Serving
from llmrl.rollouts.engines.torch_engine import TorchEngine

pytestmark = pytest.mark.asyncio

CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM

class MineConfig(Qwen3Config):
    model_type = "mine"

class Mine(Qwen3ForCausalLM):
    config_class = MineConfig
"""


def engine_of(folder: Path, *, trusted: bool = False) -> TorchEngine:
    serving = Serving(
        model=Model(path=str(folder), context_tokens=256, trust_remote_code=str(folder) if trusted else None),
        engines=Engines(kind="torch", max_sequences=16),
        opponent=Opponent(kind="reference"),
    )
    return TorchEngine(serving, device="cpu")


def request(name: str) -> Request:
    tokens = np.array([5, 9, 12, 7], np.int32)
    return Request(id=name, tokens=tokens, max_tokens=4, temperature=1.0, seed=1)


@pytest.mark.parametrize("error", [IndexError("index out of range"), TypeError("no"), ValueError("odd")])
async def test_whatever_a_model_raises_fails_who_waits_and_the_engine_goes_on(
    tiny_model: Path, error: Exception
) -> None:
    engine = engine_of(tiny_model)
    healthy = engine._model

    def broken(**_asked: Any) -> None:
        raise error

    engine._model = broken
    with pytest.raises(EngineError, match=f"torch engine failed: {type(error).__name__}: {error}"):
        await engine.generate(request("broken"))

    engine._model = healthy
    assert (await engine.generate(request("mended"))).tokens.size > 0


async def test_a_model_whose_code_the_recipe_trusts_plays_the_policy_and_its_reference(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "mine.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config))

    engine = engine_of(folder, trusted=True)

    assert (await engine.generate(request("one"))).tokens.size > 0
    assert type(engine._model).__name__ == type(engine._second).__name__ == "Mine"
