"""What the plan says of this machine over what is measured, after one calibration in other sizes.

    .venv/bin/python -m tests.speed.table plan

Generation, training and sync are measured in CPU seconds of the run's own processes, as a plan in such
seconds predicts them; synchronous and asynchronous steps by the clock on the wall, from rates calibrated by
that clock just before. A row is how far off the plan is, either way: 1.15 is 15 %.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from llmrl.cluster.connection import connect
from llmrl.experience.experience import Experience
from llmrl.plan.architecture import read_architecture
from llmrl.plan.calibration import Calibration, calibrated
from llmrl.plan.estimate import Job
from llmrl.plan.lengths import Lengths
from llmrl.plan.measure import Laboratory, calibration, laboratory, made_up
from llmrl.plan.pace import pace_of
from llmrl.plan.placement import placement_of
from llmrl.plan.plan import Assumptions, make_job
from llmrl.plan.rollout import Generation, generation_of
from llmrl.plan.sync import sync_of
from llmrl.plan.training import training_of
from llmrl.prompts.prompt import Draw
from llmrl.recipe.schema import Recipe, Rollouts, Run, Stage
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.crew import Letter
from llmrl.run.loop import Decision, Judged, run_loop
from tests.speed.compare import Row, cpu_seconds
from tests.speed.model import build_model, stage_for

TARGET = 1.15
PROMPT_TOKENS, CALIBRATED_TOKENS, SEQUENCES = 16, 48, 64
# Prompts (of 4 responses each) and tokens: fewer and longer, more than fit at once, a few.
SIZES = ((8, 96), (24, 32), (4, 64))
STEP_PROMPTS, STEP_TOKENS, STEPS = 12, 40, 6


def recipe_for(model: Path) -> Recipe:
    """The model of the other benchmarks, with prompts and responses of the calibration's size."""
    stage = stage_for(model)
    changed = {
        "rollouts": Rollouts(per_prompt=4, max_tokens=CALIBRATED_TOKENS),
        "prompts": stage.prompts.model_copy(update={"max_tokens": 2 * PROMPT_TOKENS, "per_step": 16}),
        "engines": stage.engines.model_copy(update={"max_sequences": SEQUENCES}),
    }
    return Recipe(run=Run(name="speed"), stages=(stage.model_copy(update=changed),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """The plan's formulas at calibrated rates, for responses whose lengths are known."""

    job: Job
    stage: Stage

    @classmethod
    def at(cls, found: Calibration, job: Job, stage: Stage, folder: Path) -> Predictor:
        file = folder / "calibration.json"
        found.write(file)
        rates = calibrated(job.rates, file, device=job.machines.device, dtype=stage.model.dtype)
        return cls(job=replace(job, rates=rates), stage=stage)

    def _with(self, groups: Sequence[RolloutGroup]) -> Job:
        lengths = np.array([r.tokens.size for group in groups for r in group.rollouts], np.float64)
        work = replace(
            self.job.workload,
            samples=lengths.size,
            generated=lengths.size,
            prompt_tokens=PROMPT_TOKENS,
            lengths=Lengths.of(lengths, "measured"),
            longest=float(lengths.max()),
        )
        return replace(self.job, workload=work)

    def generation(self, groups: Sequence[RolloutGroup]) -> Generation:
        job = self._with(groups)
        place = placement_of(self.stage)
        return generation_of(job.workload, place, job.machines, job.rates, slots=SEQUENCES)

    def training_s(self, groups: Sequence[RolloutGroup]) -> float:
        job = self._with(groups)
        return training_of(job.workload, placement_of(self.stage), job.machines, job.rates).seconds

    def sync_s(self) -> float:
        job = self.job
        return sync_of(job.workload, placement_of(self.stage), job.machines, job.rates).value


@dataclass(slots=True, kw_only=True, eq=False)
class Rehearsal:
    """Stations of the real loop over a laboratory."""

    room: Laboratory
    drawn: dict[int, Draw] = field(default_factory=dict[int, Draw])
    letters: dict[int, Letter] = field(default_factory=dict[int, Letter])
    groups: list[RolloutGroup] = field(default_factory=list[RolloutGroup])
    """All that was trained on."""
    ends: list[float] = field(default_factory=list[float])
    """When each version was served."""

    def draw(self) -> int:
        (draw,) = self.room.draws(1, PROMPT_TOKENS)
        self.drawn[draw.ordinal] = draw
        return draw.ordinal

    async def obtain(self, ordinal: int) -> Judged:
        _, (group,) = await self.room.generate([self.drawn[ordinal]], max_tokens=STEP_TOKENS)
        return Judged(group=group, judgements=())

    def decide(self, judged: Judged, /) -> Decision:
        return "train"

    def late(self, ordinal: int, /) -> None:
        raise AssertionError("nothing is given up where there are no spare groups")

    async def score_ahead(self, judged: Sequence[Judged], /) -> None:
        """One update needs no scores from before it."""

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        return [made_up(one.group) for one in judged]

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        groups = [experience.group for experience in experiences]
        self.groups += groups
        await self.room.train(groups)
        self.letters[step + 1] = self.room.crew.post(step + 1)

    async def publish(self, version: int) -> None:
        (await self.room.crew.deliver(self.letters.pop(version))).taken()
        self.room.version = version
        self.ends.append(time.monotonic())


async def paced(room: Laboratory, predictor: Predictor, *, lag: int) -> float:
    """How far off a step of the loop is, from the second version on."""
    rehearsal = Rehearsal(room=room)
    first = room.version
    await run_loop(rehearsal, per_step=STEP_PROMPTS, max_lag=lag, first=first, last=first + STEPS)
    measured = float(np.diff(rehearsal.ends[1:]).mean())
    # One step's worth: as many responses, of the lengths of all.
    every, share = rehearsal.groups, len(rehearsal.groups) // STEPS
    whole = predictor.generation(every)
    one = replace(whole, samples=whole.samples / STEPS, prefill=whole.prefill / STEPS)
    assert share == STEP_PROMPTS
    training_s = predictor.training_s(every[:share])
    contention = predictor.job.rates.contention
    pace = pace_of(one, training_s=training_s, sync_s=predictor.sync_s(), lag=lag, contention=contention)
    return off(pace.step.value, measured)


def off(predicted: float, measured: float) -> float:
    """How many times too large or too small."""
    return max(predicted / measured, measured / predicted)


async def measured_rows(pairs: int, folder: Path) -> list[Row]:
    """Calibrate by one clock, compare by it; then the same by the other."""
    recipe = recipe_for(build_model(folder))
    stage = recipe.stages[0]
    job = make_job(stage, read_architecture(recipe.stages[0].model), Assumptions())
    found: dict[str, list[float]] = {
        name: [] for name in ("generation", "training", "sync", "lag 0", "lag 1")
    }
    with connect(stage.cluster):
        async with laboratory(recipe, stage, clock=cpu_seconds, folder=folder) as room:
            predictor = Predictor.at(await calibration(room, job), job, stage, folder)
            for _ in range(pairs):
                for prompts, tokens in SIZES:
                    spent, groups = await room.generate(room.draws(prompts, PROMPT_TOKENS), max_tokens=tokens)
                    found["generation"].append(off(predictor.generation(groups).alone_s, spent))
                    found["training"].append(off(predictor.training_s(groups), await room.train(groups)))
                found["sync"].append(off(predictor.sync_s(), await room.sync()))
            room.clock = time.monotonic
            for _ in range(pairs):
                predictor = Predictor.at(await calibration(room, job), job, stage, folder)
                for lag in (0, 1, 1, 0):
                    found[f"lag {lag}"].append(await paced(room, predictor, lag=lag))
    what = {
        "generation": "in other sizes, CPU s",
        "training": "in other sizes, CPU s",
        "sync": "CPU s",
        "lag 0": "synchronous step, on the wall",
        "lag 1": "asynchronous step, on the wall",
    }
    return [
        Row(what=f"plan off by, {name} ({what[name]})", ratios=ratios, target=TARGET, at_most=True)
        for name, ratios in found.items()
    ]


def rows(pairs: int) -> list[Row]:
    """How far off the plan is, for each part of a step and for whole steps."""
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        return asyncio.run(measured_rows(pairs, Path(folder)))
