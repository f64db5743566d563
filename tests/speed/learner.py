"""CPU time of a bare torch step, and of plain DeepSpeed's, over that of one policy worker on the same tokens.

    .venv/bin/python -m tests.speed.table learner

Bare is forward, backward, clipping and fused AdamW with GRPO's loss written out, through the same packed
attention, the same chunked head and the same micro-batches, collated beforehand. Ours is
``PolicyWorker.update`` at ZeRO 1, 2 and 3 with one rank: it schedules, collates, corrects, counts metrics and
goes through DeepSpeed. Plain is bare with its optimizer in DeepSpeed, as its documentation says. Every step
must have the same gradient norm on all sides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.policy.model import load_model
from llmrl.policy.scorer import TokenScorer
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Stage
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from tests.speed.compare import Outcome, Row, Run, in_turns, must_agree, speed_ratios, started
from tests.speed.model import VOCABULARY, build_model, stage_for

GROUPS, PER_PROMPT, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 4, 16, (24, 72)
CLIP, CAP = 0.2, 2.0
TARGETS = {1: 0.95, 2: 0.95, 3: 0.88}
"""By ZeRO stage, over bare torch: stage 3 fetches and releases parameters that one rank has anyway."""
PLAIN_TARGET = 0.98
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}


def experiences() -> list[Experience]:
    """About 2,000 tokens in 32 responses."""
    sizes = np.random.default_rng(1).integers(*RESPONSE_TOKENS, (GROUPS, PER_PROMPT))
    return experiences_of(sizes, prompt_tokens=PROMPT_TOKENS)


def experiences_of(sizes: NDArray[np.int64], *, prompt_tokens: int) -> list[Experience]:
    """Responses of [groups, responses] tokens; the sampled logprobs are near those of an untrained model."""
    rng = np.random.default_rng(0)
    made: list[Experience] = []
    for ordinal, row in enumerate(sizes):
        tokens = rng.integers(3, VOCABULARY, prompt_tokens, dtype=np.int32)
        prompt = Prompt(id=f"p/{ordinal}", tokens=tokens, text="", answer=None, source="p")
        rollouts = tuple(_rollout(rng, int(size)) for size in row)
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


Score = Callable[..., tuple[Tensor, Tensor | None]]
"""A scorer, or DeepSpeed's engine around one."""


def _by_hand(stage: Stage) -> tuple[TokenScorer, torch.optim.AdamW, list[Callable[[Score], Tensor]]]:
    """The packed model, its optimizer, and the loss of each micro-batch, collated beforehand."""
    scorer = TokenScorer(load_model(Path(str(stage.model.path)), stage.model))
    optimizer = torch.optim.AdamW(
        scorer.parameters(),
        lr=stage.optimizer.lr,
        betas=stage.optimizer.betas,
        eps=stage.optimizer.eps,
        weight_decay=0.0,
        fused=True,
    )
    step, budget = Step(Columns.of(experiences())), stage.policy.tokens_per_microbatch
    microbatches = step.microbatches(
        range(step.groups), ranks=1, rank=0, tokens_per_microbatch=budget, work=scorer.work
    )
    return scorer, optimizer, [grpo_loss(rows, responses=step.lengths.size) for rows in microbatches]


@contextmanager
def bare(model: Path) -> Generator[Run]:
    """A training step that knows nothing but torch, the packed model and its loss."""
    stage = stage_for(model)
    scorer, optimizer, losses = _by_hand(stage)
    parameters = list(scorer.parameters())

    def run() -> Callable[[], Outcome]:
        for loss in losses:
            loss(scorer).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, stage.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return lambda: {"grad_norm": norm.numpy()}

    yield run


@contextmanager
def plain(model: Path, zero_stage: int) -> Generator[Run]:
    """The same step through DeepSpeed alone."""
    os.environ.update(ENVIRONMENT)
    # DeepSpeed patches torch when it is imported, which is none of the bare side's business.
    import deepspeed  # noqa: PLC0415

    from llmrl.policy.zero import Meeting, join_group  # noqa: PLC0415

    stage = stage_for(model)
    meeting = Meeting("127.0.0.1")
    join_group(meeting.address, rank=0, ranks=1, device="cpu", meeting=meeting, timeout_s=60)
    scorer, optimizer, losses = _by_hand(stage)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": len(losses),
        "gradient_clipping": stage.optimizer.max_grad_norm,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    engine: Any = deepspeed.initialize(
        model=scorer, optimizer=optimizer, config=config, dist_init_required=False
    )[0]

    def run() -> Callable[[], Outcome]:
        for loss in losses:
            engine.backward(loss(engine), scale_wrt_gas=False)
            engine.step()
        norm = np.array(float(engine.get_global_grad_norm()))
        return lambda: {"grad_norm": norm}

    yield run


def grpo_loss(collated: Collated, *, responses: int) -> Callable[[Score], Tensor]:
    """GRPO with a truncated correction, on the flat [M] trained tokens of one micro-batch."""
    sampled = collated.sampled.view(-1)[collated.slots]
    advantage = collated.advantage.view(-1)[collated.slots]
    share = (1 / (responses * collated.mask.sum(-1)))[collated.slots // collated.width]

    def loss(score: Score) -> Tensor:
        logp, _ = score(collated.inputs, temperature=1.0, entropy=False)
        old = logp.detach()
        credit = advantage * (old - sampled).exp().clamp(max=CAP)
        ratio = (logp - old).exp()
        gain = torch.minimum(ratio * credit, ratio.clamp(1 - CLIP, 1 + CLIP) * credit)
        return -(gain * share).sum()

    return loss


@contextmanager
def ours(model: Path, zero_stage: int, data: Sequence[Experience]) -> Generator[Run]:
    """One rank of the policy."""
    os.environ.update(ENVIRONMENT)
    from llmrl.policy.worker import PolicyWorker  # noqa: PLC0415  as above

    worker = PolicyWorker(stage_for(model, zero_stage=zero_stage), "cpu", 0)
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
        wanted = {"bare": (bare, model)}
        wanted |= {f"plain {n}": (plain, model, n) for n in TARGETS}
        wanted |= {f"ours {n}": (ours, model, n, experiences()) for n in TARGETS}
        with started(wanted) as sides:
            found = in_turns(sides, rounds=pairs)
    tokens = int(Step(Columns.of(experiences())).lengths.sum())
    rate = 2 * pairs * tokens / sum(found["bare"].seconds)
    for name in wanted:
        # Rounding differs (DeepSpeed's flat buffers), and each step starts from the last one's weights.
        must_agree(found["bare"], found[name], tolerance={"grad_norm": 1e-4})
    over_bare = [
        Row(
            what=f"learner step over bare torch, ZeRO {number} ({tokens} tokens; bare {rate:,.0f}/s)",
            ratios=speed_ratios(found["bare"], found[f"ours {number}"]),
            target=target,
        )
        for number, target in TARGETS.items()
    ]
    over_plain = [
        Row(
            what=f"learner step over plain DeepSpeed, ZeRO {number}",
            ratios=speed_ratios(found[f"plain {number}"], found[f"ours {number}"]),
            target=PLAIN_TARGET,
        )
        for number in TARGETS
    ]
    return over_bare + over_plain
