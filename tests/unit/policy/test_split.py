"""The gradient of a step is the same however its rows are split, packed and dealt to ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llmrl.batches.step import Step
from llmrl.batches.work import Work
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.objectives.contract import Unit
from llmrl.policy.reduce import reduce_loss
from llmrl.policy.scorer import TokenScorer
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.rollout import Rollout, RolloutGroup

WORK = Work(per_token=1.0, per_scored=0.0, per_square=4e-5)


def step(seed: int = 0) -> list[Experience]:
    """Four prompts with three responses each: short, long, empty, and some with tokens nobody trains on."""
    random = np.random.default_rng(seed)

    def tokens(size: int) -> np.ndarray:
        return random.integers(0, 23, size).astype(np.int32)

    def rollout(size: int) -> Rollout:
        return Rollout(
            tokens=tokens(size),
            logp=np.zeros(size, np.float32),
            version=np.zeros(size, np.int32),
            trained=random.random(size) < 0.7,
            turn=np.zeros(size, np.int32),
            stop="stop",
            text="",
        )

    def experience(ordinal: int) -> Experience:
        prompt = Prompt(id=str(ordinal), tokens=tokens(2 + ordinal), text="", answer=None, source="s")
        rollouts = tuple(rollout(int(size)) for size in random.integers(0, 12, 3))
        credit = tuple(random.normal(size=r.tokens.size).astype(np.float32) for r in rollouts)
        group = RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts)
        return Experience(group=group, judgements=(), advantages=credit, lag=0)

    return [experience(ordinal) for ordinal in range(4)]


def gradient(
    scorer: TokenScorer, experiences: list[Experience], unit: Unit, *, ranks: int, budget: int
) -> Tensor:
    """Policy gradient plus a little entropy, over all micro-batches of all ranks."""
    numbered, groups = Step(Columns.of(experiences)), range(len(experiences))
    scorer.zero_grad()
    for made in (
        made
        for rank in range(ranks)
        for made in numbered.microbatches(
            groups, ranks=ranks, rank=rank, tokens_per_microbatch=budget, work=WORK
        )
    ):
        scores = made.scores(*scorer(made.inputs, temperature=0.8))
        assert scores.entropy is not None
        value = -scores.logp * made.advantage - 0.1 * scores.entropy
        reduce_loss(value, made.mask, numbered.totals(groups), unit).backward()
    return torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])


@pytest.mark.parametrize("unit", ["tokens", "responses"])
@pytest.mark.parametrize(("ranks", "budget"), [(1, 20), (1, 35), (2, 40), (3, 1000), (16, 25)])
def test_no_split_changes_the_gradient(unit, ranks, budget, make_model):
    scorer, experiences = TokenScorer(make_model("qwen3", head_dim=16)), step()

    whole = gradient(scorer, experiences, unit, ranks=1, budget=1000)
    split = gradient(scorer, experiences, unit, ranks=ranks, budget=budget)

    assert (split - whole).norm() / whole.norm() < 1e-5
    assert whole.norm() > 0.1
