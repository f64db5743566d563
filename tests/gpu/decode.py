"""Run R4: what a decode step costs: vLLM through llmrl, beside raw vLLM and what the GPU allows.

    python -m tests.gpu.decode [--models Qwen2.5-0.5B] [--device cuda|cpu]        (from the repository's root)

So many responses at once after prompts of so many tokens; the time of a step is that of long responses less
that of short ones, over the tokens between. Ours delivers what a run gets; raw is
``vllm.LLM.generate(logprobs=0)`` with the same engine arguments. The roofline is the weights and the KV cache
read once, or the matrix products if those take longer, at the data sheet's peaks. The plan's formula
t0 + t1 b + t2 C is fitted to our steps.
Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrl.plan.architecture import architecture_of
from llmrl.plan.measure import fitted as least_squares
from llmrl.policy.model import prepare_model
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Source, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.engines.kinds import CPU_ENVIRONMENT, QUIET_ENVIRONMENT
from llmrl.rollouts.worker import RolloutWorker
from tests.gpu.finding import Row, peaks, place, report
from tests.gpu.shapes import SHAPES, TINY

BATCHES, CONTEXTS, SHORT, LONG = (1, 8, 64, 256, 512), (1024, 4096), 16, 144
ROUNDS, DEADLINE_S = 3, 900
OVER_RAW, OF_ROOFLINE, FIT = 0.97, 0.70, 0.15

Point = tuple[int, int]
"""Responses at once, and tokens of each one's prompt."""
Seconds = Mapping[Point, float]
"""Of a decode step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model on disk, and where to decode with it."""

    stage: Stage
    device: str
    points: tuple[Point, ...]
    short: int
    long: int

    def draws(self, point: Point, *, turn: int) -> list[Draw]:
        """Prompts that nobody has seen before."""
        rng = np.random.default_rng((turn, *point))
        return [
            Draw(ordinal=n, prompt=Prompt(id=f"p/{turn}/{n}", tokens=row, text="", answer=None, source="p"))
            for n, row in enumerate(rng.integers(3, 13, point, dtype=np.int32))
        ]


def ours(task: Task) -> Seconds:
    """The rollout worker of a run."""
    worker = RolloutWorker(task.stage, task.device, 0)

    async def timed(point: Point, tokens: int, turn: int) -> float:
        sampling = Sampling(purpose="train", per_prompt=1, temperature=1.0, max_tokens=tokens)
        began = time.perf_counter()
        await asyncio.gather(*(worker.generate(draw, sampling) for draw in task.draws(point, turn=turn)))
        return time.perf_counter() - began

    async def measured() -> Seconds:
        await worker.start()
        try:
            return {point: await step_s(point) for point in task.points}
        finally:
            await worker.close()

    async def step_s(point: Point) -> float:
        await timed(point, task.short, 0)  # captures its graphs
        found = [
            (await timed(point, task.long, 2 * n + 1), await timed(point, task.short, 2 * n + 2))
            for n in range(ROUNDS)
        ]
        return _step(found, task)

    return asyncio.run(measured())


def raw(task: Task) -> Seconds:
    """vLLM's synchronous front door, as a script would use it."""
    os.environ.update({**(CPU_ENVIRONMENT if task.device == "cpu" else {}), **QUIET_ENVIRONMENT})
    # vLLM reads the environment when it is imported.
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    from tests.speed.rollouts import raw_options  # noqa: PLC0415

    llm = LLM(**raw_options(task.stage, task.device))

    def timed(point: Point, tokens: int, turn: int) -> float:
        prompts: Any = [{"prompt_token_ids": d.prompt.tokens.tolist()} for d in task.draws(point, turn=turn)]
        sampling = [SamplingParams(max_tokens=tokens, seed=n, logprobs=0) for n in range(len(prompts))]
        began = time.perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        return time.perf_counter() - began

    def step_s(point: Point) -> float:
        timed(point, task.short, 0)
        found = [
            (timed(point, task.long, 2 * n + 1), timed(point, task.short, 2 * n + 2)) for n in range(ROUNDS)
        ]
        return _step(found, task)

    return {point: step_s(point) for point in task.points}


def _step(found: list[tuple[float, float]], task: Task) -> float:
    longer, shorter = np.median(found, axis=0)
    return float(longer - shorter) / (task.long - task.short)


def rows_of(name: str, config: dict[str, Any], device: torch.device) -> Iterator[Row]:
    with TemporaryDirectory(prefix="llmrl-gpu-") as folder:
        task = _task(config, device, Path(folder))
        found, bare = _alone(ours, task), _alone(raw, task)
    for point in task.points:
        batch, context = point
        what = f"{name}, {batch} at once after {context:,} tokens"
        yield Row(what=what, got=batch / found[point], unit="tokens/s")
        if device.type == "cuda":
            over = bare[point] / found[point]
            yield Row(what=f"{what}: over raw vLLM", got=over, limit=OVER_RAW, at_least=True)
            share = roofline(config, point, device) / found[point]
            yield Row(what=f"{what}: share of the roofline", got=share, limit=OF_ROOFLINE, at_least=True)
    (t0, t1, t2), off = fitted(found)
    formula = f"t0 = {t0 * 1e3:.2f} ms, t1 = {t1 * 1e6:.2f} us, t2 = {t2 * 1e6:.3f} us"
    what = f"{name}: how far off {formula} is at worst"
    yield Row(what=what, got=off, limit=FIT if device.type == "cuda" else None)


def roofline(config: dict[str, Any], point: Point, device: torch.device) -> float:
    """Seconds of a step that only reads weights and KV cache, or only multiplies."""
    shape, best, (batch, context) = architecture_of(config, where="model.config"), peaks(device), point
    moved = 2 * shape.matrices + batch * context * shape.kv_bytes(2)
    return max(moved / (best.memory_tb_s * 1e12), 2 * shape.matrices * batch / best.flops("bfloat16"))


def fitted(found: Seconds) -> tuple[NDArray[np.float64], float]:
    """t0, t1 and t2 of b sequences with C tokens in all, and how far off the worst step is, relatively."""
    seconds = np.array(list(found.values()))
    terms = np.array([(1.0, batch, batch * context) for batch, context in found])
    times = least_squares(terms, seconds)
    return times, float(np.abs(terms @ times / seconds - 1).max())


def _alone(side: Any, task: Task) -> Seconds:
    """In a process of its own, whose memory is gone when it ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(side, task).result(DEADLINE_S)


def _task(config: dict[str, Any], device: torch.device, folder: Path) -> Task:
    on_gpu = device.type == "cuda"
    batches, contexts = (BATCHES, CONTEXTS) if on_gpu else ((1, 4), (16, 64))
    short, long = (SHORT, LONG) if on_gpu else (4, 20)
    context_tokens = max(contexts) + long
    made = Model(config=config, characters="0123456789", context_tokens=context_tokens)
    path = str(prepare_model(made, folder=folder / "model", seed=0))
    stage = Stage(
        model=Model(path=path, dtype="bfloat16", context_tokens=context_tokens),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        engines=Engines(max_sequences=max(batches)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )
    points = tuple(product(batches, contexts))
    return Task(stage=stage, device=device.type, points=points, short=short, long=long)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", default="Qwen2.5-0.5B;Qwen2.5-1.5B", help="separated by semicolons")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stdout.write("skipped: R4 measures a GPU, and torch finds none here.\n")
        return 0
    shapes = {name: SHAPES[name] for name in options.models.split(";")} if device.type == "cuda" else TINY
    listed = (row for name, config in shapes.items() for row in rows_of(name, config, device))
    return report(listed, where=place(device))


if __name__ == "__main__":
    sys.exit(main())
