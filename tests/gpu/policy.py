"""A model of real shape in bfloat16 scores as in float32, and its weights survive the way to an engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from llmrl.batches.collate import Inputs
from llmrl.policy import attention
from llmrl.policy.scorer import TokenScorer
from llmrl.policy.tensors import pieces
from llmrl.weights.bundle import Probe
from llmrl.weights.outbox import Outbox
from llmrl.weights.receiver import Receiver
from llmrl.weights.store import MemoryStore
from tests.gpu.finding import Row, Sizes, grad_of, median_of, off


def scorer_rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """A random model of the shape of Qwen2.5-0.5B in bfloat16, packed, against itself in float32, alone."""
    inputs = _packed_inputs(sizes, device)
    exact = _qwen2(sizes, "sdpa", device)
    model = _qwen2(sizes, attention.PACKED, device)
    model.load_state_dict(exact.state_dict())
    scorer = TokenScorer(model).to(torch.bfloat16)
    logp, _ = scorer(inputs, temperature=1.0)
    (-logp.mean()).backward()
    right = _alone(exact, inputs, sizes.sequences)
    difference = (logp.detach() - right).abs()
    gradients = zip(model.parameters(), exact.parameters(), strict=True)
    ours, wanted = (
        torch.cat(list(x))
        for x in zip(*((grad_of(a).flatten(), grad_of(b).flatten()) for a, b in gradients), strict=True)
    )
    yield Row(
        what="bf16 TokenScorer, packed, against fp32 alone: mean difference",
        limit=0.01,
        unit="nats",
        got=float(difference.mean()),
    )
    yield Row(
        what="bf16 TokenScorer: worst difference of a token",
        limit=0.1,
        unit="nats",
        got=float(difference.max()),
    )
    yield Row(
        what="bf16 TokenScorer: difference of the gradient, relative", limit=0.05, got=off(ours, wanted)
    )
    yield from packed_rows(model)
    if device.type == "cuda":
        del exact, ours, wanted, right
        seconds = median_of(lambda: scorer(inputs, temperature=1.0)[0].mean().backward(), rounds=3)
        yield Row(
            what="bf16 TokenScorer: forward and backward", got=sum(sizes.sequences) / seconds, unit="tokens/s"
        )


def _packed_inputs(sizes: Sizes, device: torch.device) -> Inputs:
    """Random sequences end to end; every token but each first one is a target."""
    starts = np.cumsum([0, *sizes.sequences])
    tokens = torch.randint(0, sizes.head[1], (1, int(starts[-1])))
    predict_at = torch.cat([torch.arange(a, b - 1) for a, b in pairwise(starts.tolist())])
    return Inputs(
        tokens=tokens,
        positions=torch.cat([torch.arange(n) for n in sizes.sequences])[None],
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_length=max(sizes.sequences),
        predict_at=predict_at,
        targets=tokens[0, predict_at + 1],
    ).to(device)


def _qwen2(sizes: Sizes, implementation: str, device: torch.device) -> PreTrainedModel:
    config = cast("Any", CONFIG_MAPPING["qwen2"])(
        vocab_size=sizes.head[1],
        hidden_size=sizes.hidden,
        intermediate_size=4864 * sizes.hidden // 896,
        num_hidden_layers=sizes.layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        use_cache=False,
    )
    auto = cast("Any", AutoModelForCausalLM)
    return auto.from_config(config, attn_implementation=implementation, dtype=torch.float32).to(device)


def _alone(model: PreTrainedModel, inputs: Inputs, lengths: tuple[int, ...]) -> Tensor:
    """[M] nats; each sequence on its own leaves its share of the mean's gradient."""
    found: list[Tensor] = []
    for tokens in inputs.tokens.split(lengths, dim=1):
        logits = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        logp = logits.gather(-1, tokens[0, 1:, None])[:, 0]
        (-logp.sum() / inputs.targets.numel()).backward()
        found.append(logp.detach())
    return torch.cat(found)


def packed_rows(model: PreTrainedModel) -> Iterator[Row]:
    """Weights from the device into one block of bytes, and back onto the device, bit for bit."""
    probe = Probe(tokens=np.zeros(1, np.int32), logp=np.zeros(1, np.float32))
    sent = {piece.name: piece.make() for piece in pieces(model)}
    outbox = Outbox(MemoryStore(), deltas=False)
    bundle = outbox.send([[(name, "whole", t) for name, t in sent.items()]], version=1, probe=probe)
    different = 0
    for name, tensor in Receiver(Path(), dtype="bfloat16", device=torch.device("cpu")).tensors(bundle):
        back = tensor.to(model.device)
        different += int((back.view(torch.int16) != sent[name].view(torch.int16)).sum())
    yield Row(
        what=f"weights packed and back, {bundle.size:,} bytes: different elements",
        got=different,
        limit=0,
    )
