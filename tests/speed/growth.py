"""How the cost of everything around the engines grows with prompts, lengths and engines.

    .venv/bin/python -m tests.speed.table growth

Groups go the way they go in a run: through the pool to engines in processes of their own and back, through
the rewards, into columns and the object store. The engines take a fixed time that costs no CPU, so the CPU
time of all processes is what is left. Of a sync, which costs them no time at all, it is the time from the
policy's step to the last engine: the policy gathers and writes once, and engines take their weights at the
same time, if there are cores for that. A row is the slope of the logarithm of that time against that of the
size: 1 is linear. The last row is what one more engine adds to the CPU time of a sync over what it adds to
that of a round of calls that do nothing, after as long a pause: Ray's own price of a call.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from llmrl.cluster.actor import gathered, share
from llmrl.cluster.connection import connect
from llmrl.experience.columns import Columns
from llmrl.plan.measure import Laboratory, laboratory, made_up
from llmrl.prompts.prompt import Draw
from llmrl.recipe.schema import Recipe, Reward, Rollouts, Run
from llmrl.rewards.scoring.samples import samples_of
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.pool import Answer, EnginePool
from llmrl.rollouts.rollout import RolloutGroup
from tests.speed.compare import Row, WrongResultError, cpu_seconds
from tests.speed.model import build_model, stage_for

PROMPTS, LENGTHS, ENGINES = (64, 128, 256, 512, 1024), (31, 62, 124, 248, 496), (1, 2, 4, 8)
FEW, SHORT, PER_PROMPT, PROMPT_TOKENS = 128, 31, 4, 16
"""What holds still while another size grows."""
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

    async def sync(self, *, engines: int) -> None:
        """New weights for some of the engines, and more of them, and more."""
        crew = replace(self.room.crew, engines=self.room.crew.engines[:engines])
        for _ in range(IN_A_ROW):
            self.room.version += 1
            await crew.publish(crew.post(self.room.version))

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
    sizes: Sequence[int], work: Callable[[int], Awaitable[None]], *, rounds: int
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


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Of log seconds against log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def each(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds that one more adds."""
    return float(np.polyfit(sizes, seconds, 1)[0])


async def measured_rows(pairs: int, folder: Path) -> list[Row]:
    """All slopes, with one crew."""
    recipe = recipe_for(build_model(folder))
    stage = recipe.stages[0]
    scorer = Scorer({"short": Reward(kind="length", options={"max_tokens": max(LENGTHS)})}, stage.scoring, ())
    await scorer.start()
    try:
        with connect(stage.cluster):
            async with laboratory(recipe, stage, clock=cpu_seconds, folder=folder) as room:
                return await _slopes(Flow(room=room, scorer=scorer), rounds=pairs)
    finally:
        await scorer.close()


async def _slopes(flow: Flow, *, rounds: int) -> list[Row]:
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
    syncs, until = await seconds_of(ENGINES, lambda size: flow.sync(engines=size), rounds=rounds)
    calls, _ = await seconds_of(ENGINES, lambda size: flow.call(engines=size), rounds=rounds)
    largest = (
        f"{1e3 * until[0] / IN_A_ROW:.0f} ms to one, {1e3 * until[-1] / IN_A_ROW:.0f} ms to {ENGINES[-1]}"
    )
    sync_ms, call_ms = 1e3 * each(ENGINES, syncs) / IN_A_ROW, 1e3 * each(ENGINES, calls) / CALLS
    if min(sync_ms, call_ms) <= 0:
        raise WrongResultError("one more engine cost no time: repeat this on an idle machine")
    empty = f"CPU time of one more engine in a sync over an empty call to it ({call_ms:.1f} ms)"
    return [
        *made,
        _row(f"time of a sync against engines ({largest})", slope(ENGINES, until), target=0.1),
        Row(what=empty, ratios=[sync_ms / call_ms], target=1.25, at_most=True),
    ]


def _row(what: str, found: float, *, target: float = 1.05) -> Row:
    return Row(what=f"log-log slope, {what}", ratios=[found], target=target, at_most=True)


def rows(pairs: int) -> list[Row]:
    """The slopes."""
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        return asyncio.run(measured_rows(pairs, Path(folder)))
