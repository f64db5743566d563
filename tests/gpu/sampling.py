"""The torch engine samples on the device, and the scorer agrees about every logprob."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.batches.collate import Inputs
from llmrl.policy.model import load_model, prepare_model
from llmrl.policy.scorer import TokenScorer
from llmrl.recipe.schema import Engines, Model
from llmrl.rollouts.engines import Request, Serving
from llmrl.rollouts.engines.torch_engine import TorchEngine
from tests.gpu.finding import NAMES, Row, Sizes


def engine_rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The torch engine samples, the scorer scores the same tokens with the same weights."""
    del sizes
    small = {
        "model_type": "qwen3",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "initializer_range": 0.1,
    }
    with TemporaryDirectory(prefix="llmrl-gpu-") as folder:
        made = Model(config=small, characters="0123456789+=,#", context_tokens=256)
        path = prepare_model(made, folder=Path(folder) / "model", seed=0)
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
            name = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]
            model = Model.model_validate({"path": str(path), "dtype": name, "context_tokens": 256})
            mean, tokens = asyncio.run(_parity(model, device))
            what = f"torch engine and TokenScorer, {NAMES[dtype]}, {tokens} sampled tokens: mean difference"
            yield Row(what=what, got=mean, limit=limit, unit="nats")


async def _parity(model: Model, device: torch.device) -> tuple[float, int]:
    engine = TorchEngine(Serving(model=model, engines=Engines()), device=device.type)
    prompt = np.array([5, 9, 12, 7], np.int32)
    requests = [Request(id=f"r{n}", tokens=prompt, max_tokens=40, temperature=0.7, seed=n) for n in range(8)]
    completions = await asyncio.gather(*(engine.generate(request) for request in requests))
    await engine.close()
    scorer = TokenScorer(load_model(Path(str(model.path)), model)).to(device)
    differences: list[Tensor] = []
    for completion in completions:
        with torch.no_grad():
            logp, _ = scorer(_continued(prompt, completion.tokens).to(device), temperature=0.7)
        differences.append((logp.float().cpu() - torch.from_numpy(completion.logp)).abs())
    together = torch.cat(differences)
    return float(together.mean()), together.numel()


def _continued(prompt: NDArray[np.int32], response: NDArray[np.int32]) -> Inputs:
    """One sequence, whose response is scored."""
    tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
    read = tokens.numel() - 1
    return Inputs(
        tokens=tokens[None, :-1],
        positions=torch.arange(read)[None],
        cu_seqlens=torch.tensor([0, read], dtype=torch.int32),
        max_length=read,
        predict_at=torch.arange(prompt.size - 1, read),
        targets=tokens[prompt.size :],
    )
