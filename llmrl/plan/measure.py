"""The rates of this machine, measured with the processes of a run: the recipe's own engine and policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from llmrl.cluster.actor import gathered, share
from llmrl.cluster.connection import connect
from llmrl.cluster.placement import choose_device, gpu_kinds
from llmrl.errors import RecipeError, shown
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.objectives.algorithm import Algorithm
from llmrl.plan.architecture import read_architecture
from llmrl.plan.calibration import Calibration
from llmrl.plan.estimate import Job
from llmrl.plan.hardware import Device
from llmrl.plan.placement import Placement, placement_of
from llmrl.plan.plan import Assumptions, make_job
from llmrl.plan.rollout import generation_of
from llmrl.plan.sync import swap_of, sync_of
from llmrl.plan.training import training_of
from llmrl.policy.folder import find_folder
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.recipe.schema import Optimizer, Recipe, Role, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.crew import Crew
from llmrl.run.hiring import hired

ROUNDS = 3
LONGEST = 512
"""Response tokens of a measurement at most; longer ones add nothing that the fit can see."""

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True, eq=False)
class Laboratory:
    """A crew at work on made-up prompts; every call says how long it took."""

    stage: Stage
    crew: Crew
    clock: Clock
    vocabulary: int
    version: int = 0
    drawn: int = 0

    def draws(self, prompts: int, tokens: int) -> list[Draw]:
        """Prompts of random tokens that were never seen before."""
        rng = np.random.default_rng(derive_seed(0, "measure", self.drawn))
        first, self.drawn = self.drawn, self.drawn + prompts
        listed = rng.integers(0, self.vocabulary, (prompts, tokens), dtype=np.int32)
        return [
            Draw(
                ordinal=first + number,
                prompt=Prompt(id=f"made/{first + number}", tokens=row, text="", answer=None, source="made"),
            )
            for number, row in enumerate(listed)
        ]

    async def generate(self, draws: Sequence[Draw], *, max_tokens: int) -> tuple[float, list[RolloutGroup]]:
        """All responses to some prompts, from the first engine."""
        table, deadline = self.stage.rollouts, self.crew.deadline_s
        sampling = Sampling(
            purpose="train",
            per_prompt=table.per_prompt,
            temperature=table.temperature,
            max_tokens=max_tokens,
        )
        began = self.clock()
        asked = [self.crew.engines[0].send("generate", draw, sampling) for draw in draws]
        groups = await gathered(asked, deadline_s=deadline)
        return self.clock() - began, groups

    async def train(self, groups: Sequence[RolloutGroup]) -> float:
        """One step on them, with made-up advantages."""
        experiences = [made_up(group) for group in groups]
        began = self.clock()
        columns = Columns.of(experiences)
        await self.crew.policy("update", share(columns), self.version)
        return self.clock() - began

    async def sync(self) -> float:
        """New weights, until every engine has proven that it serves them."""
        await self.crew.devices.policy()
        self.version += 1
        began = self.clock()
        (await self.crew.deliver(self.crew.post(self.version))).taken()
        return self.clock() - began


def made_up(group: RolloutGroup) -> Experience:
    """A group whose every response has an advantage of its own."""
    rng = np.random.default_rng(group.ordinal)
    advantages = tuple(np.full(r.tokens.size, rng.normal(), np.float32) for r in group.rollouts)
    return Experience(group=group, judgements=(), advantages=advantages, lag=0)


@asynccontextmanager
async def laboratory(
    recipe: Recipe, stage: Stage, *, clock: Clock, folder: Path
) -> AsyncGenerator[Laboratory]:
    """Start the processes of a stage as a run would, with an untrained model if the recipe builds one.

    Ray must be connected.

    Args:
        recipe: it says which plugins are imported, and what the first stage builds.
        stage: whose processes; it must generate.
        clock: seconds of what is to be measured.
        folder: for the model and the logs.
    """
    first = recipe.stages[0].model
    build = first if first.config is not None else None
    path = folder / "model" if build else find_folder(first)
    bundle = Algorithm.of(stage).bundle
    model = stage.model.model_copy(update={"path": str(path), "config": None})
    # Made-up prompts are answered by nobody, and nobody judges the responses.
    alone = {"environment": None, "roles": dict[str, Role]()}
    placed = stage.model_copy(update={"model": model, "opponent": bundle.opponent, **alone})
    vocabulary = read_architecture(first).vocabulary
    async with hired(
        placed, seed=recipe.run.seed, plugins=recipe.plugins, engines=True, build=build, logs=folder
    ) as crew:
        yield Laboratory(stage=placed, crew=crew, clock=clock, vocabulary=vocabulary)


def check_device(asked: Device, *, runs_on: str, kinds: Collection[str]) -> None:
    """Refuse rates that would be filed under another device than the one that is measured.

    Args:
        asked: what the plan is for.
        runs_on: ``cpu`` or ``cuda``, whatever the processes get here.
        kinds: models of the GPUs here, as far as they are known.

    Raises:
        RecipeError: with what to say instead.
    """
    if runs_on == "cpu" and asked.is_gpu:
        raise RecipeError(
            f"--gpus: --measure runs on the CPU here, got {shown(asked.name)}; leave --gpus out, or measure "
            "where these GPUs are."
        )
    if runs_on == "cpu" or (asked.is_gpu and not kinds):
        return
    if not asked.is_gpu or asked.name not in {kind.partition("-")[0] for kind in kinds}:
        got = shown(asked.name) if asked.is_gpu else "none"
        have = ", ".join(sorted(kinds)) or "GPUs"
        raise RecipeError(
            f"--gpus: --measure runs on {have} here, got {got}; name these, such as --gpus 8xH100, or set "
            "cluster.device = 'cpu'."
        )


def calibrate(recipe: Recipe, assumptions: Assumptions, *, clock: Clock = time.monotonic) -> Calibration:
    """Measure the last stage that generates.

    Raises:
        RecipeError: no stage generates, or ``--gpus`` names other devices than those here.
        LlmrlError: whatever keeps a run of this recipe from starting.
    """
    stage = next((stage for stage in reversed(recipe.stages) if Algorithm.of(stage).online), None)
    if stage is None:
        raise RecipeError("--measure: no stage of this recipe generates, so there is nothing to measure.")
    architecture = read_architecture(recipe.stages[0].model, config=assumptions.config)
    job = make_job(stage, architecture, assumptions)

    async def measured() -> Calibration:
        with TemporaryDirectory(prefix="llmrl-measure-") as folder, connect(stage.cluster):
            check_device(job.machines.device, runs_on=choose_device(stage), kinds=gpu_kinds())
            async with laboratory(recipe, stage, clock=clock, folder=Path(folder)) as room:
                return await calibration(room, job)

    return asyncio.run(measured())


async def calibration(room: Laboratory, job: Job) -> Calibration:
    """The rates that explain what was measured, in a few sizes of each part."""
    place = placement_of(room.stage)
    await room.sync()  # on shared devices engines sleep until weights come
    decode, groups = await _decode_times(room, prompts_once=job.machines.device.is_gpu)
    trained, update_s = await _train_times(room, job, place, groups)
    contention = 1.0 if place.shared else await _slowed(room, groups)
    sync_s = median([await room.sync() for _ in range(2 * ROUNDS)])
    known = sync_of(job.workload, place, job.machines, job.rates).value
    # On shared devices the ranks leave meanwhile, half of what the plan counts for that.
    known += swap_of(job.workload, place, job.rates, gpu=job.machines.device.is_gpu).value / 2
    return Calibration(
        device=job.machines.device.name,
        dtype=job.workload.dtype,
        said=f"{datetime.now(UTC):%Y-%m-%d} with {job.workload.architecture.parameters:,} parameters",
        train=trained,
        score=trained,
        update_s=update_s,
        contention=contention,
        sync_s=max(0.0, sync_s - known + job.rates.sync_s),
        **decode_rates(job, place, decode),
    )


async def _decode_times(
    room: Laboratory, *, prompts_once: bool
) -> tuple[NDArray[np.float64], list[RolloutGroup]]:
    """[4] seconds of a step, of a sequence in it, a token of context, one of a prompt; and responses."""
    table, stage = room.stage.rollouts, room.stage
    prompt = max(1, stage.prompts.max_tokens // 2)
    full, length = stage.engines.max_sequences // table.per_prompt, min(LONGEST, table.max_tokens)
    sizes = [(full, length), (full // 2, length), (full // 8, length), (full, length // 4), (full, 1)]
    rows: list[list[float]] = []
    seconds: list[float] = []
    kept: list[RolloutGroup] = []
    await room.generate(room.draws(1, prompt), max_tokens=length)
    for _ in range(ROUNDS):
        for count, tokens in sizes:
            spent, groups = await room.generate(room.draws(max(1, count), prompt), max_tokens=max(1, tokens))
            rows.append(demands(groups, prompts_once=prompts_once))
            seconds.append(spent)
            kept = groups if len(groups) >= len(kept) and tokens == length else kept
    return fitted(np.array(rows), np.array(seconds)), kept


def demands(groups: Sequence[RolloutGroup], *, prompts_once: bool) -> list[float]:
    """[4] decode steps, sequences and tokens of context over all of them, and tokens of prompts.

    Args:
        groups: all that was generated at once.
        prompts_once: each is read once for its group, as ``generation_of`` counts on a GPU.
    """
    prompts = np.array([group.prompt.tokens.size for group in groups for _ in group.rollouts], np.float64)
    lengths = np.array([one.tokens.size for group in groups for one in group.rollouts], np.float64)
    context = (prompts * lengths + lengths**2 / 2).sum()
    read = sum(group.prompt.tokens.size for group in groups) if prompts_once else prompts.sum()
    return [float(lengths.max()), float(lengths.sum()), float(context), float(read)]


def fitted(demanded: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """[k] costs, none negative, that explain [m] times by [m, k] demands with the least relative error."""
    scaled, ones = demanded / seconds[:, None], np.ones(seconds.size)
    columns = range(demanded.shape[1])
    best, least = np.zeros(demanded.shape[1]), np.inf
    for count in range(1, len(columns) + 1):
        for chosen in combinations(columns, count):
            cost = np.zeros(len(columns))
            cost[list(chosen)] = np.linalg.lstsq(scaled[:, chosen], ones, rcond=None)[0]
            error = float(((scaled @ cost - 1) ** 2).sum())
            if (cost >= 0).all() and error < least:
                best, least = cost, error
    return best


def decode_rates(job: Job, place: Placement, decode: NDArray[np.float64]) -> dict[str, float]:
    """The data sheet explains a part of what was measured, or else it is too modest.

    Args:
        job: at the rates of the data sheet.
        place: of the engine that was measured.
        decode: [4] seconds of a step, of a sequence in it, of a token of context, of a token of a prompt.
    """
    t0, t1, t2, prefill = (max(1e-12, float(cost)) for cost in decode)
    rates, shape, tp = job.rates, job.workload.architecture, place.tensor_parallel
    known = generation_of(job.workload, place, job.machines, rates, slots=place.max_sequences)
    weights, products = known.t0 - rates.step_s, known.t1 - rates.sequence_s
    return {
        "read": rates.read * max(1.0, weights / t0),
        "decode": rates.decode * max(1.0, products / t1),
        "step_s": max(0.0, t0 - weights),
        "sequence_s": max(0.0, t1 - products),
        "cache": shape.kv_bytes_on(tp, job.workload.width) / t2,
        "prefill": 2 * shape.matrices / (tp * prefill * choosing(job)),
    }


async def _train_times(
    room: Laboratory, job: Job, place: Placement, groups: Sequence[RolloutGroup]
) -> tuple[float, float]:
    """FLOP/s of a rank, and the seconds of an update that no FLOP explains."""
    rows: list[list[float]] = []
    seconds: list[float] = []
    await room.train(groups)
    for _ in range(ROUNDS):
        for part in (groups, groups[: max(1, len(groups) // 4)]):
            spent = await room.train(part)
            rows.append([step_flops(job, part), updates_of(room.stage.optimizer, groups=len(part))])
            seconds.append(spent)
    flop_s, update_s = fitted(np.array(rows), np.array(seconds))
    known = training_of(job.workload, place, job.machines, job.rates)
    beside = (known.update.value + known.talk.value) / job.workload.updates - job.rates.update_s
    return train_rate(job, place, float(flop_s)), max(0.0, float(update_s) - beside)


def train_rate(job: Job, place: Placement, flop_s: float) -> float:
    """FLOP/s of one rank, from the seconds that a FLOP of a step takes on all ranks."""
    return 1 / (place.ranks * max(1e-18, flop_s) * choosing(job))


def choosing(job: Job) -> float:
    """The share that choosing experts leaves: taken out of what was measured, as plans multiply by it."""
    return job.rates.experts if job.workload.architecture.experts > 1 else 1.0


def updates_of(optimizer: Optimizer, *, groups: int) -> int:
    """Updates of a step on these few groups: a minibatch has at least one group."""
    return optimizer.epochs * min(optimizer.minibatches, groups)


async def _slowed(room: Laboratory, groups: Sequence[RolloutGroup]) -> float:
    """Factor by which training and generation slow each other down, on the wall; at least 1."""
    longest, prompt = (
        max(r.tokens.size for group in groups for r in group.rollouts),
        groups[0].prompt.tokens.size,
    )
    found: list[float] = []

    async def generate() -> None:
        await room.generate(room.draws(len(groups), prompt), max_tokens=longest)

    async def train() -> None:
        await room.train(groups)

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(generate())
            tasks.create_task(train())

    for _ in range(ROUNDS):
        one, other, all_of_it = [await _wall(work) for work in (generate, train, both)]
        found.append(1 + (all_of_it - max(one, other)) / min(one, other))
    return max(1.0, median(found))


async def _wall(work: Callable[[], Awaitable[None]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


def step_flops(job: Job, groups: Sequence[RolloutGroup]) -> float:
    """FLOPs of a training step on these very groups, scores before it included."""
    work = job.workload
    tokens = np.array(
        [group.prompt.tokens.size + one.tokens.size for group in groups for one in group.rollouts], np.float64
    )
    forward = work.architecture.forward_flops(float(tokens.sum()), float((tokens**2).sum()))
    passes = work.epochs * work.passes + work.scans + work.scores_old + work.scores_reference
    return forward * passes
