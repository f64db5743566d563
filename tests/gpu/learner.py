"""Run R2: a GRPO step of the learner in bfloat16: tokens per second, MFU and peak memory.

    python -m tests.gpu.learner [--models Qwen2.5-0.5B,Qwen3-0.6B] [--device cuda|cpu]

About 32k tokens in sequences of 2k and of 16k, all parameters, Adam's states on the GPU. Ours is
``PolicyWorker.update`` at ZeRO 1 on one rank. Beside it, from the same weights: the same packed attention and
head by hand with torch's AdamW, and transformers' own SDPA attention on padded rows with whole logits. All
must have the same gradient norm.

MFU is strict: three times the forward FLOPs of the matrices, of the head once, and of causal attention within
each sequence, over the data sheet's peak; what is computed again counts once. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.policy.model import load_model, prepare_model
from llmrl.policy.scorer import TokenScorer
from llmrl.policy.worker import PolicyWorker
from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Source, Stage
from tests.gpu.finding import Row, median_of, peaks, place, report
from tests.gpu.shapes import SHAPES, TINY
from tests.speed.learner import experiences_of, grpo_loss

TOKENS, SEQUENCES, PROMPT = 32768, (2048, 16384), 16
LEAST_MFU = {"Qwen2.5-0.5B": 0.40, "Qwen2.5-1.5B": 0.47, "Qwen2.5-7B, 14 layers": 0.50, "Qwen3-0.6B": 0.35}
OVER_HAND, NORM = 0.98, 0.02
"""Least speed over the step by hand, and most relative difference of gradient norms in bfloat16."""

DEADLINE_S = 600

Run = Callable[[], float]
"""One optimizer step; returns the norm of its gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model on disk and the sequences to train on."""

    stage: Stage
    device: torch.device
    data: list[Experience]
    length: int

    @property
    def step(self) -> Step:
        return Step(Columns.of(self.data))


def ours(task: Task) -> Run:
    worker = PolicyWorker(task.stage, task.device.type, 0)
    worker.start(worker.open_meeting("127.0.0.1"))
    return lambda: worker.update(Columns.of(task.data), 0)["policy/grad_norm"]


def by_hand(task: Task) -> Run:
    """The same kernels without DeepSpeed, and without what makes a framework of them."""
    stage, step = task.stage, task.step
    scorer = TokenScorer(load_model(Path(str(stage.model.path)), stage.model))
    budget = stage.policy.tokens_per_microbatch
    made = step.microbatches(
        range(step.groups), ranks=1, rank=0, tokens_per_microbatch=budget, work=scorer.work
    )
    losses = [grpo_loss(rows.to(task.device), responses=step.lengths.size) for rows in made]
    scorer.to(task.device)
    return _trained(list(scorer.parameters()), [lambda loss=loss: loss(scorer) for loss in losses])


def padded(task: Task) -> Run:
    """What transformers does when it is asked: rows side by side, SDPA attention, whole logits."""
    path, auto = Path(str(task.stage.model.path)), cast("Any", AutoModelForCausalLM)
    model = auto.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="sdpa").to(task.device)
    if task.stage.model.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = [
        (e, rollout, a) for e in task.data for rollout, a in zip(e.group.rollouts, e.advantages, strict=True)
    ]

    def loss(experience: Experience, rollout: Any, advantage: Any) -> Tensor:
        ids = np.concatenate([experience.group.prompt.tokens, rollout.tokens])
        tokens = torch.as_tensor(ids, dtype=torch.long, device=task.device)[None]
        first = experience.group.prompt.tokens.size - 1
        logits = model(input_ids=tokens, use_cache=False).logits[0, first:-1].float()
        logp = logits.log_softmax(-1).gather(-1, tokens[0, first + 1 :, None])[:, 0]
        sampled, credit = (torch.as_tensor(x, device=task.device) for x in (rollout.logp, advantage))
        weight = (logp.detach() - sampled).exp().clamp(max=2.0)
        return -((logp - logp.detach()).exp() * credit * weight).mean() / len(rows)

    return _trained(list(model.parameters()), [lambda row=row: loss(*row) for row in rows])


def _trained(parameters: list[Any], losses: list[Callable[[], Tensor]]) -> Run:
    """AdamW on float32 copies of what computes in bfloat16."""
    masters = [parameter.detach().float() for parameter in parameters]
    optimizer = torch.optim.AdamW(masters, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def run() -> float:
        for loss in losses:
            loss().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        optimizer.step()
        optimizer.zero_grad()
        for master, parameter in zip(masters, parameters, strict=True):
            parameter.data.copy_(master)
        return float(norm)

    return run


SIDES = {"llmrl": ours, "by hand": by_hand, "transformers": padded}


def rows_of(name: str, config: dict[str, Any], length: int, device: torch.device) -> Iterator[Row]:
    with TemporaryDirectory(prefix="llmrl-gpu-") as folder:
        task = _task(config, length, device, Path(folder))
        flops = _flops(task)
        found = {side: _alone(side, task) for side in SIDES}
    what, tokens = f"{name}, sequences of {length:,}", int(task.step.lengths.sum())
    for side, (seconds, peak, _) in found.items():
        yield Row(what=f"{what}: {side}", got=tokens / seconds, unit="tokens/s")
        yield Row(what=f"{what}: {side}, peak memory", got=peak / 2**30, unit="GiB")
    for side in ("by hand", "transformers"):
        off = abs(found["llmrl"][2] / found[side][2] - 1)
        yield Row(what=f"{what}: gradient norm off that of {side}", got=off, limit=NORM)
    if device.type == "cuda":
        mfu = flops / found["llmrl"][0] / peaks(device).flops("bfloat16")
        yield Row(what=f"{what}: strict MFU", got=mfu, limit=LEAST_MFU.get(name), at_least=True)
        over = found["by hand"][0] / found["llmrl"][0]
        yield Row(what=f"{what}: speed over by hand", got=over, limit=OVER_HAND, at_least=True)


def _task(config: dict[str, Any], length: int, device: torch.device, folder: Path) -> Task:
    model = Model(config=config, characters="0123456789", context_tokens=length)
    path = prepare_model(model, folder=folder / "model", seed=0)
    large = config["hidden_size"] >= 2048
    stage = Stage(
        model=Model(path=str(path), dtype="bfloat16", context_tokens=length, gradient_checkpointing=large),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=100, lr=1e-6),
        policy=Policy(tokens_per_microbatch=max(length, 8192 if large else 16384)),
    )
    count = max(2, TOKENS // length) if device.type == "cuda" else 4
    sizes = np.full((count // 2, 2), length - PROMPT)
    return Task(stage=stage, device=device, data=experiences_of(sizes, prompt_tokens=PROMPT), length=length)


def _flops(task: Task) -> float:
    """Of a step, strictly; from the matrices of the model, which is small enough to be loaded for it."""
    scorer, step = TokenScorer(load_model(Path(str(task.stage.model.path)), task.stage.model)), task.step
    squares = step.lengths * step.lengths
    return 3 * float(scorer.work.of(tokens=step.lengths, scored=step.trained, squares=squares).sum())


def _alone(side: str, task: Task) -> tuple[float, float, float]:
    """In a process of its own, whose memory is gone when it ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, side, task).result(DEADLINE_S)


def _measured(side: str, task: Task) -> tuple[float, float, float]:
    """Seconds of a step, its peak of memory in bytes, and the first step's gradient norm."""
    run, on_gpu = SIDES[side](task), task.device.type == "cuda"
    norm = run()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = median_of(run, rounds=5)
    return seconds, float(torch.cuda.max_memory_allocated()) if on_gpu else 0.0, norm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", default=";".join(SHAPES), help="separated by semicolons")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stdout.write("skipped: R2 measures a GPU, and torch finds none here.\n")
        return 0
    shapes = {name: SHAPES[name] for name in options.models.split(";")} if device.type == "cuda" else TINY
    lengths = SEQUENCES if device.type == "cuda" else (64,)
    listed = (row for name in shapes for n in lengths for row in rows_of(name, shapes[name], n, device))
    return report(listed, where=place(device))


if __name__ == "__main__":
    sys.exit(main())
