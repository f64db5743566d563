"""No split of the work changes a gradient: ZeRO stages, ranks, micro-batch budgets, against plain torch."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.rollout import Rollout, RolloutGroup

TEMPERATURE = 0.8
# With an epsilon far above any gradient, the first step of AdamW moves each weight by lr / eps times its
# gradient: weights after the step compare gradients, not their signs.
OPTIMIZER = Optimizer(steps=1, lr=1e3, eps=1e3, max_grad_norm=1e9)
BUDGETS = (64, 100_000)
CELLS = [(zero, ranks, budget) for ranks in (1, 2) for zero in (0, 1, 2, 3) for budget in BUDGETS]


def name_of(zero: int, ranks: int, budget: int) -> str:
    return f"zero{zero}-ranks{ranks}-budget{budget}"


def rollout(rng: np.random.Generator, size: int) -> Rollout:
    trained = rng.random(size) < 0.9
    # Every third response has its past rewritten halfway.
    context = rng.integers(3, 17, int(rng.integers(1, 8)), dtype=np.int32)
    rewrites = (Rewrite(at=size // 2, context=context),) if rng.random() < 0.3 else ()
    return Rollout(
        tokens=rng.integers(3, 17, size, dtype=np.int32),
        logp=np.where(trained, -rng.exponential(2.0, size), np.nan).astype(np.float32),
        version=np.zeros(size, np.int32),
        trained=trained,
        turn=np.zeros(size, np.int32),
        stop="stop",
        text="",
        rewrites=rewrites,
    )


def make_experiences() -> list[Experience]:
    """Seven groups of unequal sizes: observations, an empty response, NaN outside the mask, other pasts."""
    rng = np.random.default_rng(0)
    experiences: list[Experience] = []
    for ordinal in range(7):
        tokens = rng.integers(3, 17, int(rng.integers(2, 12)), dtype=np.int32)
        prompt = Prompt(id=f"p/{ordinal}", tokens=tokens, text="", answer=None, source="p")
        rollouts = tuple(rollout(rng, int(rng.integers(0 if ordinal == 3 else 1, 40))) for _ in range(3))
        advantages = tuple(np.where(r.trained, rng.normal(), 0).astype(np.float32) for r in rollouts)
        group = RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts)
        experiences.append(Experience(group=group, judgements=(), advantages=advantages, lag=0))
    return experiences


def logp_of(model: Any, context: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
    """[L] nats of ``tokens`` after ``context``, read alone."""
    ids = torch.as_tensor(np.concatenate([context, tokens]), dtype=torch.long)[None]
    logp = (model(input_ids=ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
    return logp.gather(-1, ids[0, 1:, None])[context.size - 1 :, 0]


def plain_torch(folder: Path, experiences: list[Experience]) -> tuple[dict[str, np.ndarray], float, float]:
    """GRPO with a truncated correction, sequence by sequence, with nothing of ours but the data."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    decayed = list(model.parameters())
    optimizer = torch.optim.AdamW(
        decayed, lr=OPTIMIZER.lr, eps=OPTIMIZER.eps, betas=OPTIMIZER.betas, weight_decay=0
    )
    responses = [(e, r, a) for e in experiences for r, a in zip(e.group.rollouts, e.advantages, strict=True)]
    counted = [item for item in responses if item[1].trained.any()]
    total = torch.zeros(())
    for experience, one, advantage in counted:
        mask = torch.as_tensor(one.trained)
        pieces = [
            logp_of(model, context, one.tokens[here])
            for context, here in one.segments(experience.group.prompt.tokens)
        ]
        current = torch.cat(pieces)[mask]
        sampled = torch.as_tensor(one.logp)[mask]
        weight = (current.detach() - sampled).exp().clamp(max=2.0)
        ratio = (current - current.detach()).exp()
        gain = ratio * weight * torch.as_tensor(advantage)[mask]
        total = total - gain.mean() / len(counted)
    total.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(decayed, OPTIMIZER.max_grad_norm))
    optimizer.step()
    return {n: p.detach().numpy() for n, p in model.named_parameters()}, norm, float(total.detach())


@pytest.fixture(scope="module")
def after_one_step(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    (folder / "experiences.pickle").write_bytes(pickle.dumps(make_experiences()))
    for ranks in (1, 2):
        cells = [
            {
                "name": name_of(zero, ranks, budget),
                "stage": Stage(
                    # Where micro-batches are many, what they keep is also computed again.
                    model=Model(
                        path=str(tiny_model), context_tokens=64, gradient_checkpointing=budget < max(BUDGETS)
                    ),
                    prompts=Prompts(sources=(Source(task="digit_sum"),)),
                    rollouts=Rollouts(temperature=TEMPERATURE),
                    objective=Choice(name="grpo"),
                    optimizer=OPTIMIZER,
                    policy=Policy(ranks=ranks, zero_stage=zero, tokens_per_microbatch=budget),  # type: ignore[arg-type]
                ).model_dump(mode="json"),
            }
            for zero, of_ranks, budget in CELLS
            if of_ranks == ranks
        ]
        (folder / "cells.json").write_text(json.dumps(cells))
        script = str(Path(__file__).with_name("gradient_rank.py"))
        env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
        processes = [
            subprocess.Popen([sys.executable, script, str(rank), str(ranks), str(folder)], env=env)
            for rank in range(ranks)
        ]
        assert [p.wait(timeout=240) for p in processes] == [0] * ranks
    return folder


@pytest.mark.parametrize(("zero", "ranks", "budget"), CELLS)
def test_a_step_equals_plain_torch(
    after_one_step: Path, tiny_model: Path, zero: int, ranks: int, budget: int
) -> None:
    expected, norm, loss = plain_torch(tiny_model, make_experiences())
    before = {
        n: p.detach().numpy() for n, p in AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters()
    }

    got = np.load(after_one_step / f"{name_of(zero, ranks, budget)}.npz")
    metrics = json.loads((after_one_step / f"{name_of(zero, ranks, budget)}.json").read_text())

    assert sorted(got.files) == sorted(expected)
    moved = np.concatenate([(expected[n] - before[n]).ravel() for n in sorted(expected)])
    ours = np.concatenate([(got[n] - before[n]).ravel() for n in sorted(expected)])
    assert np.linalg.norm(ours - moved) / np.linalg.norm(moved) < 1e-5
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
