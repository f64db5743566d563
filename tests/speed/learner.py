"""CPU time of a bare torch step over that of one policy worker, on the same packed tokens.

    .venv/bin/python -m tests.speed.table learner

Bare is forward, backward, clipping and fused AdamW with GRPO's loss written out, through the same packed
attention, the same chunked head and the same micro-batches, collated beforehand. Ours is
``PolicyWorker.update`` at ZeRO 1 and 2 with one rank: it schedules, collates, corrects, counts metrics and
goes through DeepSpeed. Every step must have the same gradient norm on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.policy.model import load_model
from llmrl.policy.scorer import Scorer
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from tests.speed.compare import Outcome, Row, Run, in_turns, must_agree, speed_ratios, started
from tests.speed.model import VOCABULARY, build_model, stage_for

GROUPS, PER_PROMPT, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 4, 16, (24, 72)
CLIP, CAP = 0.2, 2.0
ZERO_STAGES = (1, 2)
TARGET = 0.90
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}


def experiences() -> list[Experience]:
    """About 2,000 tokens in 32 responses; the sampled logprobs are near those of an untrained model."""
    rng = np.random.default_rng(0)
    made: list[Experience] = []
    for ordinal in range(GROUPS):
        tokens = rng.integers(3, VOCABULARY, PROMPT_TOKENS, dtype=np.int32)
        prompt = Prompt(id=f"p/{ordinal}", tokens=tokens, text="", answer=None, source="p")
        rollouts = tuple(_rollout(rng, int(rng.integers(*RESPONSE_TOKENS))) for _ in range(PER_PROMPT))
        advantages = tuple(np.full(r.tokens.size, rng.normal(), np.float32) for r in rollouts)
        group = RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts)
        made.append(Experience(group=group, judgements=(), advantages=advantages, lag=0))
    return made


def _rollout(rng: np.random.Generator, size: int) -> Rollout:
    return Rollout(
        tokens=rng.integers(3, VOCABULARY, size, dtype=np.int32),
        logp=rng.normal(-np.log(VOCABULARY), 0.5, size).astype(np.float32),
        version=np.zeros(size, np.int32),
        trained=np.ones(size, np.bool_),
        turn=np.zeros(size, np.int32),
        stop="stop",
        text="",
    )


@contextmanager
def bare(model: Path) -> Generator[Run]:
    """A training step that knows nothing but torch, the packed model and its loss."""
    stage, data = stage_for(model), experiences()
    scorer = Scorer(load_model(model, stage.model))
    parameters = list(scorer.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=stage.optimizer.lr,
        betas=stage.optimizer.betas,
        eps=stage.optimizer.eps,
        weight_decay=0.0,
        fused=True,
    )
    step, budget = Step(Columns.of(data)), stage.policy.tokens_per_microbatch
    microbatches = step.microbatches(
        range(step.groups), ranks=1, rank=0, tokens_per_microbatch=budget, work=scorer.work
    )
    losses = [_loss_of(rows, responses=step.lengths.size) for rows in microbatches]

    def run() -> Callable[[], Outcome]:
        for loss in losses:
            loss(scorer).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, stage.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return lambda: {"grad_norm": norm.numpy()}

    yield run


def _loss_of(collated: Collated, *, responses: int) -> Callable[[Scorer], Tensor]:
    """GRPO with a truncated correction, on the flat [M] trained tokens of one micro-batch."""
    sampled = collated.sampled.view(-1)[collated.slots]
    advantage = collated.advantage.view(-1)[collated.slots]
    share = (1 / (responses * collated.mask.sum(-1)))[collated.slots // collated.width]

    def loss(scorer: Scorer) -> Tensor:
        logp, _ = scorer(collated.inputs, temperature=1.0, entropy=False)
        old = logp.detach()
        credit = advantage * (old - sampled).exp().clamp(max=CAP)
        ratio = (logp - old).exp()
        gain = torch.minimum(ratio * credit, ratio.clamp(1 - CLIP, 1 + CLIP) * credit)
        return -(gain * share).sum()

    return loss


@contextmanager
def ours(model: Path, zero_stage: int) -> Generator[Run]:
    """One rank of the policy."""
    os.environ.update(ENVIRONMENT)
    # DeepSpeed patches torch when it is imported, which is none of the bare side's business.
    from llmrl.policy.worker import PolicyWorker  # noqa: PLC0415

    worker, data = PolicyWorker(stage_for(model, zero_stage=zero_stage), "cpu", 0), experiences()
    worker.start(worker.open_meeting("127.0.0.1"))

    def run() -> Callable[[], Outcome]:
        metrics = worker.update(Columns.of(data), 0)
        return lambda: {"grad_norm": np.array(metrics["policy/grad_norm"])}

    yield run


def rows(pairs: int) -> list[Row]:
    """The learner's ratios.

    Raises:
        WrongResultError: a gradient norm differs.
    """
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        model = build_model(Path(folder))
        wanted = {"bare": (bare, model)} | {f"zero{n}": (ours, model, n) for n in ZERO_STAGES}
        with started(wanted) as sides:
            found = in_turns(sides, rounds=pairs)
    tokens, rows = int(Step(Columns.of(experiences())).lengths.sum()), []
    rate = 2 * pairs * tokens / sum(found["bare"].seconds)
    for number in ZERO_STAGES:
        # Rounding differs (DeepSpeed's flat buffers), and each step starts from the last one's weights.
        must_agree(found["bare"], found[f"zero{number}"], tolerance={"grad_norm": 1e-4})
        ratios = speed_ratios(found["bare"], found[f"zero{number}"])
        what = f"learner step over bare torch, ZeRO {number} ({tokens} tokens; bare {rate:,.0f}/s)"
        rows.append(Row(what=what, ratios=ratios, target=TARGET))
    return rows
