"""One stage of a recipe, from its first prompt to its exported model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmrl.experience.credit import Memory
from llmrl.recipe.schema import Recipe
from llmrl.report.binding import binding
from llmrl.report.card import has_card, remove_card, write_card
from llmrl.report.console import ConsoleReport
from llmrl.report.journal import FILE as JOURNAL
from llmrl.report.journal import EvaluationEntry, Journal, read_journal
from llmrl.report.timeline import Timeline
from llmrl.report.trackers import Trackers
from llmrl.rewards.scoring.samples import compares
from llmrl.roles.switchboard import Switchboard
from llmrl.rollouts.pool import EnginePool
from llmrl.run.answers import EngineAnswers
from llmrl.run.checkpoint import Checkpoint
from llmrl.run.crew import Crew
from llmrl.run.hiring import hired
from llmrl.run.judging import Judging
from llmrl.run.ledger import Ledger
from llmrl.run.loop import run_loop
from llmrl.run.parity_gate import pass_gate
from llmrl.run.record import Record
from llmrl.run.stage_plan import StagePlan
from llmrl.run.stations import Offline, Online, StageStations
from llmrl.run.step_budget import StepBudget
from llmrl.run.stop import StopRequest
from llmrl.run.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """The exported model of a stage, and its evaluations."""

    model: Path
    """The exported Hugging Face folder."""
    before: EvaluationEntry | None
    after: EvaluationEntry | None


async def run_stage(
    recipe: Recipe,
    plan: StagePlan,
    newest: Checkpoint | None,
    console: ConsoleReport,
    stop: StopRequest,
    switchboard: Switchboard,
) -> StageResult:
    """Hire the crew, go on from the newest checkpoint if there is one, train, evaluate, export."""
    stage, folder = plan.stage, plan.folder
    stop.heed(f"before stage '{stage.name}'")
    console.stage(stage.name, steps=stage.optimizer.steps, done=newest.state.step if newest else 0)
    async with hired(
        stage,
        seed=recipe.run.seed,
        plugins=recipe.plugins,
        engines=plan.generates,
        build=plan.build,
        logs=folder / "logs",
    ) as crew:
        await crew.meet_in(folder)
        switchboard.connect(crew.roles, deadline_s=crew.deadline_s)
        if newest:
            await crew.policy("restore", newest.path)
        remove_card(folder / "model")  # left by an earlier end, which this stage goes beyond
        with _trainer(recipe, plan, newest, crew, console) as trainer:
            async with trainer.sealing():
                if await stop.interrupts(_train(plan, trainer), trainer.stepping, trainer.publishing):
                    await trainer.save()
                    lost = "" if stage.policy.restorable else " (policy.offload = 'nvme' saves none)"
                    stop.heed(f"after step {trainer.taken}{lost}")
        await crew.policy("export", folder / "model")
    if bound := binding(read_journal(folder / JOURNAL).steps):
        console.note(str(bound))
    result = _result(folder)
    write_card(result.model, recipe, stage, result.before, result.after, steps=stage.optimizer.steps)
    return result


def is_done(plan: StagePlan) -> bool:
    """Whether the stage has ended before, whatever became of its checkpoints; the card is written last."""
    journal, steps = plan.folder / JOURNAL, plan.stage.optimizer.steps
    if not (has_card(plan.folder / "model") and journal.exists()):
        return False
    told = read_journal(journal)
    due = [told.steps, told.evaluations] if plan.evaluated else [told.steps]
    return all(entries and entries[-1].step == steps for entries in due)


def done_before(plan: StagePlan, console: ConsoleReport) -> StageResult:
    """The result of a stage that was finished earlier."""
    console.note(f"stage {plan.stage.name}: done before, {plan.stage.optimizer.steps} steps")
    return _result(plan.folder)


@contextmanager
def _trainer(
    recipe: Recipe, plan: StagePlan, newest: Checkpoint | None, crew: Crew, console: ConsoleReport
) -> Generator[Trainer]:
    """The trainer as the checkpoint left it, with all files open that it and its record write to."""
    stage, folder = plan.stage, plan.folder
    state = newest.state if newest else None
    taken = state.step if state else 0
    earlier_s = _earlier_seconds(folder / JOURNAL)  # includes steps that are lost
    with (
        Ledger(folder / "ledger.jsonl", state.ledger if state else None) as ledger,
        Journal(folder, resumed=taken) as journal,
        _trackers(recipe, plan) as trackers,
        Timeline(folder, steps=stage.report.timeline_steps) as timeline,
    ):
        record = Record(
            stage=stage,
            folder=folder,
            journal=journal,
            console=console,
            trackers=trackers,
            timeline=timeline,
            decode=lambda token: plan.tokenizer.decode([token]),
            pool=EnginePool([EngineAnswers(e, crew.deadline_s, timeline) for e in crew.engines]),
            scorer=plan.scorer,
            earlier_s=earlier_s,
        )
        yield Trainer(
            stage=stage,
            crew=crew,
            ledger=ledger,
            record=record,
            checkpoints=plan.checkpoints,
            fingerprint=plan.fingerprint,
            tables=plan.tables,
            memory=state.memory if state else Memory(),
            taken=taken,
        )


async def _train(plan: StagePlan, trainer: Trainer) -> None:
    """Take all remaining steps, with the evaluations that are due before, between and after them."""
    stage, crew, record, first = plan.stage, trainer.crew, trainer.record, trainer.taken
    stations = _stations(plan, trainer)
    trainer.snapshot(first)
    await trainer.publish(first)
    if plan.online:
        await _prove_parity(plan, trainer)
    async with stations.judging.listening(crew.engines, deadline_s=crew.deadline_s):
        await _evaluate_missed(stations, first)
        record.restart_clock()
        await run_loop(
            stations,
            per_step=stage.prompts.per_step,
            max_lag=stage.engines.max_lag,
            spare=stage.spare,
            first=first,
            last=stage.optimizer.steps,
        )


def _stations(plan: StagePlan, trainer: Trainer) -> Online | Offline:
    """The stations of this stage's flow, online or offline."""
    stage, record = plan.stage, trainer.record
    kind = partial(Online, budget=_budget(plan)) if plan.online else Offline
    return kind(
        stage=stage,
        stream=plan.stream,
        evaluated=plan.evaluated,
        trainer=trainer,
        judging=Judging(
            pool=record.pool,
            scorer=plan.scorer,
            timeline=record.timeline,
            compares=compares(stage.rewards),
        ),
        algorithm=plan.algorithm,
    )


def _budget(plan: StagePlan) -> StepBudget:
    keep = plan.algorithm.keep
    return StepBudget(
        per_step=plan.stage.prompts.per_step,
        max_error_rate=plan.stage.scoring.max_error_rate,
        refills=keep.refills,
        when_exhausted=keep.when_exhausted,
    )


async def _prove_parity(plan: StagePlan, trainer: Trainer) -> None:
    """Check that engines and ranks compute the same, before anything is learned from it."""
    record = trainer.record
    parity = await pass_gate(plan.stage, plan.stream, trainer.crew, record.pool, routed=plan.routed)
    await trainer.restore_engines(trainer.taken)
    record.console.note(
        f"parity: engine and trainer agree on {parity.tokens} tokens "
        f"(mean difference {parity.mean:.1e}, largest {parity.largest:.1e} nats)"
    )


async def _evaluate_missed(stations: StageStations, first: int) -> None:
    """Evaluate version ``first`` if an interrupted run skipped an evaluation; its own version may be gone."""
    journal = read_journal(stations.trainer.record.journal.path)
    told = max((entry.step for entry in journal.evaluations), default=-1)
    if any(stations.evaluates(version) for version in range(told + 1, first + 1)):
        await stations.evaluate(first)


def _result(folder: Path) -> StageResult:
    evaluations = read_journal(folder / JOURNAL).evaluations
    before, after = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
    return StageResult(model=folder / "model", before=before, after=after)


def _trackers(recipe: Recipe, plan: StagePlan) -> Trackers:
    return Trackers(
        plan.stage.report.trackers,
        run_name=recipe.run.name,
        folder=plan.folder,
        options=plan.stage.model_dump(mode="json"),
    )


def _earlier_seconds(journal: Path) -> float:
    steps = read_journal(journal).steps if journal.exists() else ()
    return steps[-1].seconds if steps else 0.0
