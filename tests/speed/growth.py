"""How the cost of everything around the engines grows with prompts, lengths and engines.

    .venv/bin/python -m tests.speed.table growth

Groups go the way they go in a run: through the pool to engines in processes of their own and back, through
the rewards, into columns and the object store. The engines take a fixed time that costs no CPU, so the CPU
time of all processes is what is left. Of a sync, which costs them no time at all, it is the time from the
policy's step to the last engine: the policy gathers and writes once, and engines take their weights at the
same time, if there are cores for that. A row is the slope of the logarithm of that time against that of the
size: 1 is linear. What one more engine adds is the same for every model, so syncs are measured with several.
The last row is what one more engine adds to the CPU time of a sync over what it adds to that of a round of
calls that do nothing, after as long a pause: Ray's own price of a call.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from llmrl.cluster.actor import gathered, share
from llmrl.cluster.connection import connect
from llmrl.experience.columns import Columns
from llmrl.plan.measure import Laboratory, laboratory, made_up
from llmrl.prompts.prompt import Draw
from llmrl.recipe.schema import Cluster, Recipe, Reward, Rollouts, Run
from llmrl.rewards.scoring.samples import samples_of
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.pool import Answer, EnginePool
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.weights.bundle import WeightBundle
from tests.speed.compare import Row, WrongResultError, cpu_seconds
from tests.speed.model import build_model, stage_for

PROMPTS, LENGTHS, ENGINES = (64, 128, 256, 512, 1024), (31, 62, 124, 248, 496), (1, 2, 4, 8)
FEW, SHORT, PER_PROMPT, PROMPT_TOKENS = 128, 31, 4, 16
"""What holds still while another size grows."""
WIDTHS = (1, 2, 4)
"""Of models whose weights are synced."""
IN_A_ROW, CALLS = 5, 25
"""Syncs, and rounds of empty calls, that are measured together: CPU time comes in hundredths of a second."""
PAUSE_S = 0.04
"""Before each round, as the policy takes before engines are called in a sync: a call to a process that has
slept costs more than one to a process that has just answered."""


def recipe_for(model: Path) -> Recipe:
    """As many engines as the largest size has; fewer are asked for the others."""
    stage = stage_for(model)
    changed = {
        "rollouts": Rollouts(per_prompt=PER_PROMPT, max_tokens=max(LENGTHS)),
        "engines": stage.engines.model_copy(update={"kind": "fixed", "count": max(ENGINES)}),
    }
    run = Run(name="growth")
    return Recipe(run=run, plugins=("tests.speed.fixed_engine",), stages=(stage.model_copy(update=changed),))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """The way of a step's groups, from the engines to where the ranks read them."""

    room: Laboratory
    scorer: Scorer

    async def step(self, *, prompts: int, tokens: int, engines: int) -> None:
        """Generate and judge so many groups, and put them where ranks would read them."""
        answers = [self._answer(number) for number in range(engines)]
        pool, draws = EnginePool(answers), self.room.draws(prompts, PROMPT_TOKENS)
        sampling = Sampling(purpose="train", per_prompt=PER_PROMPT, temperature=1.0, max_tokens=tokens)
        groups = await asyncio.gather(*(self._judged(pool, draw, sampling) for draw in draws))
        share(Columns.of([made_up(group) for group in groups]))

    async def syncs(self, *, engines: int) -> None:
        """New weights for some of the engines, and more of them, and more."""
        for _ in range(IN_A_ROW):
            await self.sync(engines=engines)

    async def sync(self, *, engines: int) -> WeightBundle:
        """New weights for some of the engines; returns what was sent."""
        crew = replace(self.room.crew, engines=self.room.crew.engines[:engines])
        self.room.version += 1
        return (await crew.deliver(crew.post(self.room.version))).taken()

    async def call(self, *, engines: int) -> None:
        """Rounds of calls to some of the engines that do nothing."""
        crew = self.room.crew
        for _ in range(CALLS):
            await asyncio.sleep(PAUSE_S)
            asked = [engine.send("machine") for engine in crew.engines[:engines]]
            await gathered(asked, deadline_s=crew.deadline_s)

    async def _judged(self, pool: EnginePool, draw: Draw, sampling: Sampling) -> RolloutGroup:
        group = await pool.generate(draw, sampling)
        await self.scorer.judge(samples_of(group, max_tokens=sampling.max_tokens, rivals=False))
        return group

    def _answer(self, number: int) -> Answer:
        engine, deadline_s = self.room.crew.engines[number], self.room.crew.deadline_s

        def answer(draw: Draw, sampling: Sampling) -> Awaitable[RolloutGroup]:
            return engine.call("generate", draw, sampling, deadline_s=deadline_s)

        return answer


async def seconds_of(
    sizes: Sequence[int], work: Callable[[int], Awaitable[object]], *, rounds: int
) -> tuple[list[float], list[float]]:
    """Median CPU seconds of the work in each size, and seconds."""
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    wall: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        await work(size)
    for number in range(rounds):
        for size in sizes if number % 2 else reversed(sizes):
            before, began = cpu_seconds(), time.perf_counter()
            await work(size)
            wall[size].append(time.perf_counter() - began)
            cpu[size].append(cpu_seconds() - before)
    return [statistics.median(cpu[size]) for size in sizes], [statistics.median(wall[size]) for size in sizes]


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Of log seconds against log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def each(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds that one more adds."""
    return float(np.polyfit(sizes, seconds, 1)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Syncs:
    """Of one model, to each number of ``ENGINES``."""

    mib: float
    """Of its weights."""
    cpu_s: Sequence[float]
    seconds: Sequence[float]


@asynccontextmanager
async def at_work(folder: Path, *, width: int) -> AsyncGenerator[Flow]:
    """A crew with a model of this width."""
    recipe = recipe_for(build_model(folder, width=width))
    stage = recipe.stages[0]
    rewards = {"short": Reward(kind="length", options={"max_tokens": max(LENGTHS)})}
    scorer = Scorer(rewards, stage.scoring, (), stage.cluster)
    await scorer.start()
    try:
        async with laboratory(recipe, stage, clock=cpu_seconds, folder=folder) as room:
            yield Flow(room=room, scorer=scorer)
    finally:
        await scorer.close()


async def measured_rows(pairs: int, folder: Path) -> list[Row]:
    """Steps and empty calls with the first model, syncs with each."""
    with connect(Cluster()):
        async with at_work(folder, width=WIDTHS[0]) as flow:
            steps = await _steps(flow, rounds=pairs)
            syncs = [await _syncs(flow, rounds=pairs)]
            calls, _ = await seconds_of(ENGINES, lambda size: flow.call(engines=size), rounds=pairs)
        for width in WIDTHS[1:]:
            async with at_work(folder, width=width) as flow:
                syncs.append(await _syncs(flow, rounds=pairs))
    return [*steps, *map(_against_engines, syncs), _against_bytes(syncs), _one_more(syncs[0], calls)]


async def _steps(flow: Flow, *, rounds: int) -> list[Row]:
    few = FEW * PER_PROMPT
    wanted: list[tuple[str, Sequence[int], Callable[[int], Awaitable[None]], int]] = [
        (
            "prompts",
            PROMPTS,
            lambda size: flow.step(prompts=size, tokens=SHORT, engines=1),
            max(PROMPTS) * PER_PROMPT,
        ),
        ("tokens", LENGTHS, lambda size: flow.step(prompts=FEW, tokens=size, engines=1), few),
        ("engines", ENGINES, lambda size: flow.step(prompts=FEW, tokens=SHORT, engines=size), few),
    ]
    made: list[Row] = []
    for name, sizes, work, responses in wanted:
        found, _ = await seconds_of(sizes, work, rounds=rounds)
        largest = f"{1e3 * found[-1] / responses:.2f} ms for a response at the largest"
        made.append(_row(f"CPU time against {name} {sizes[0]}-{sizes[-1]} ({largest})", slope(sizes, found)))
    return made


async def _syncs(flow: Flow, *, rounds: int) -> Syncs:
    bundle = await flow.sync(engines=1)
    cpu, wall = await seconds_of(ENGINES, lambda size: flow.syncs(engines=size), rounds=rounds)
    return Syncs(
        mib=bundle.size / 2**20,
        cpu_s=[each / IN_A_ROW for each in cpu],
        seconds=[each / IN_A_ROW for each in wall],
    )


def _against_engines(syncs: Syncs) -> Row:
    one, all_s = 1e3 * syncs.seconds[0], 1e3 * syncs.seconds[-1]
    said = f"{syncs.mib:.0f} MiB: {one:.0f} ms to one, {all_s:.0f} ms to {ENGINES[-1]}"
    return _row(f"time of a sync against engines ({said})", slope(ENGINES, syncs.seconds), target=0.1)


def _against_bytes(syncs: Sequence[Syncs]) -> Row:
    mib, seconds = [one.mib for one in syncs], [one.seconds[0] for one in syncs]
    return _row(f"time of a sync against bytes {mib[0]:.0f}-{mib[-1]:.0f} MiB", slope(mib, seconds))


def _one_more(syncs: Syncs, calls: Sequence[float]) -> Row:
    sync_ms, call_ms = 1e3 * each(ENGINES, syncs.cpu_s), 1e3 * each(ENGINES, calls) / CALLS
    if min(sync_ms, call_ms) <= 0:
        raise WrongResultError("one more engine cost no time: repeat this on an idle machine")
    what = f"CPU time of one more engine in a sync over an empty call to it ({call_ms:.1f} ms)"
    return Row(what=what, ratios=[sync_ms / call_ms], target=1.25, at_most=True)


def _row(what: str, found: float, *, target: float = 1.05) -> Row:
    return Row(what=f"log-log slope, {what}", ratios=[found], target=target, at_most=True)


def rows(pairs: int) -> list[Row]:
    """The slopes."""
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        return asyncio.run(measured_rows(pairs, Path(folder)))
