"""From a recipe to a finished run: check everything, then stage after stage, then the report."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from llmrl.cluster.connection import connect, process_environment
from llmrl.cluster.placement import check_fit, choose_device, list_nodes, needs, note_idle_gpus
from llmrl.errors import LlmrlError, RecipeError, shown
from llmrl.recipe.arithmetic import arithmetic
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import Loaded, where_in
from llmrl.recipe.schema import Recipe, Stage
from llmrl.recipe.tables import leaves
from llmrl.report.console import ConsoleReport, final_line
from llmrl.report.html import write_report
from llmrl.rewards.gold import check_answers
from llmrl.roles.switchboard import Switchboard
from llmrl.rollouts.rehearsal import rehearse
from llmrl.run.checkpoint import Checkpoint
from llmrl.run.lock import alone_in
from llmrl.run.stage import StageResult, done_before, is_done, run_stage
from llmrl.run.stage_plan import StagePlan, plan_stage
from llmrl.run.stop import StopRequest

Existing = Literal["refuse", "resume", "fresh"]
"""What to do with a run folder that is already there."""

READ = ("path", "dataset", "pass_rates")
"""Keys of a recipe that name what a run reads, wherever it lies."""


def train_recipe(loaded: Loaded, *, existing: Existing = "refuse") -> None:
    """Run every stage of a recipe.

    Raises:
        LlmrlError: what llmrl can explain; what is wrong with recipe or data is said before Ray starts.
    """
    began = time.monotonic()
    check_recipe(loaded)
    recipe = loaded.recipe
    _refuse_existing(recipe, existing)
    with ConsoleReport() as console:
        plans = [plan_stage(recipe, index) for index in range(len(recipe.stages))]
        results = asyncio.run(_run(recipe, plans, console, existing))
        console.note(f"report: {write_report(recipe.folder)}")
        before = next((r.before for r in results if r.before), None)
        after = next((r.after for r in reversed(results) if r.after), None)
        if before and after:
            console.note(final_line(before, after, time.monotonic() - began))


async def _run(
    recipe: Recipe, plans: Sequence[StagePlan], console: ConsoleReport, existing: Existing
) -> list[StageResult]:
    """Run all stages; every resource is released in reverse order, whatever the run or a release raises."""
    async with AsyncExitStack() as held:
        # Entered first and so released last, even if the folder is new and only locked further down.
        lock = held.enter_context(ExitStack())
        there = recipe.folder.exists()
        if there:
            lock.enter_context(alone_in(recipe.folder))
        switchboard = _closed_at_the_end(plans, held)
        left = {i: plan for i, plan in enumerate(plans) if existing != "resume" or not is_done(plan)}
        await _check_stages(recipe, left, switchboard)
        newest = _newest(plans, left, existing)
        held.enter_context(connect(recipe.stages[0].cluster))
        _check_room(recipe, left, console)
        if not there:  # what is refused until here leaves nothing behind
            lock.enter_context(alone_in(recipe.folder))
            _refuse_existing(recipe, "refuse")  # another run may have made it meanwhile
        builds = plans[0].build is not None and 0 in newest and newest[0] is None
        _open_folder(recipe, existing, builds=builds)
        held.callback(switchboard.disconnect)
        return await _run_stages(recipe, plans, newest, console, switchboard)


def _closed_at_the_end(plans: Sequence[StagePlan], held: AsyncExitStack) -> Switchboard:
    """A switchboard, not open yet; it is closed after all scorers, whose rewards may still ask it."""
    switchboard = Switchboard()
    held.push_async_callback(switchboard.close)
    for plan in plans:
        if plan.scorer:
            held.push_async_callback(plan.scorer.close)
    return switchboard


async def _check_stages(recipe: Recipe, left: Mapping[int, StagePlan], switchboard: Switchboard) -> None:
    if any(plan.stage.roles for plan in left.values()):
        await switchboard.open()
    for index, plan in left.items():
        with _said_of_stage(recipe, index):
            await _check_rewards(plan, door=switchboard.url)
            await _check_environment(plan, recipe.plugins, door=switchboard.url)


def _newest(
    plans: Sequence[StagePlan], left: Mapping[int, StagePlan], existing: Existing
) -> dict[int, Checkpoint | None]:
    """The checkpoint from which each remaining stage continues, if there is one.

    Raises:
        CheckpointError: a stage cannot go on, or one that is done was of another run.
    """
    newest = {index: plan.newest() if existing == "resume" else None for index, plan in left.items()}
    for index, plan in enumerate(plans):
        if index not in left:
            plan.check_done()
    return newest


async def _run_stages(
    recipe: Recipe,
    plans: Sequence[StagePlan],
    newest: Mapping[int, Checkpoint | None],
    console: ConsoleReport,
    switchboard: Switchboard,
) -> list[StageResult]:
    """Run the stages in order, except those done before, which are not in ``newest``."""
    stop = StopRequest()
    stop.listen(console.note)
    return [
        await run_stage(recipe, plan, newest[index], console, stop, switchboard)
        if index in newest
        else done_before(plan, console)
        for index, plan in enumerate(plans)
    ]


async def _check_rewards(plan: StagePlan, *, door: str) -> None:
    if plan.scorer is None:
        return
    await plan.scorer.start(door=door)
    if plan.stage.scoring.check_answers:
        await check_answers(plan.scorer, [*(plan.stream.rows if plan.online else ()), *plan.evaluated])


async def _check_environment(plan: StagePlan, plugins: Sequence[str], *, door: str) -> None:
    """Report now what an environment needs and misses, not after earlier stages have trained."""
    if plan.stage.environment is None or not plan.generates:
        return
    cluster = plan.stage.cluster
    await asyncio.to_thread(
        rehearse,
        plan.stage.environment,
        plugins,
        door=door,
        variables=process_environment(cluster, device=cluster.device),
        deadline_s=cluster.start_deadline_s,
    )


def _check_room(recipe: Recipe, plans: Mapping[int, StagePlan], console: ConsoleReport) -> None:
    """Refuse a stage that the cluster cannot hold before an earlier one trains; report GPUs left idle."""
    for note in dict.fromkeys(note_idle_gpus(plan.stage) for plan in plans.values()):
        if note:
            console.note(note)
    nodes = list_nodes()
    for index, plan in plans.items():
        listed = needs(plan.stage, device=choose_device(plan.stage), engines=plan.generates)
        with _said_of_stage(recipe, index):
            check_fit(listed, nodes)


@contextmanager
def _said_of_stage(recipe: Recipe, index: int) -> Generator[None]:
    """Name the stage in an error's message, if the recipe has several."""
    try:
        yield
    except LlmrlError as error:
        raise type(error)(f"{where_in(recipe, index)}{error}") from error


def _refuse_existing(recipe: Recipe, existing: Existing) -> None:
    if recipe.folder.exists() and existing == "refuse":
        raise RecipeError(
            f"run.name: {recipe.folder} is already there; go on with --resume, replace it with --fresh, "
            "or rename the run."
        )
    if recipe.folder.exists() and existing == "fresh":
        for index, stage in enumerate(recipe.stages):
            with _said_of_stage(recipe, index):
                _refuse_loss(stage, recipe.folder)


def _refuse_loss(stage: Stage, folder: Path) -> None:
    for keys, value in leaves(stage.model_dump(mode="json")):
        if keys[-1] not in READ or not isinstance(value, str):
            continue
        if Path(value).expanduser().resolve().is_relative_to(folder.resolve()):
            raise RecipeError(
                f"{'.'.join(keys)}: {shown(value, 300)} lies in {folder}, which --fresh would delete; "
                "rename the run (run.name)."
            )


def _open_folder(recipe: Recipe, existing: Existing, *, builds: bool) -> None:
    folder = recipe.folder
    if folder.exists() and existing == "fresh":
        shutil.rmtree(folder)
    if builds and (folder / "model").exists():  # of an older recipe, it may be another one
        shutil.rmtree(folder / "model")
    for index in range(len(recipe.stages)):
        recipe.stage_folder(index).mkdir(parents=True, exist_ok=True)
    written = {"recipe": recipe.model_dump(mode="json"), "arithmetic": arithmetic(recipe)}
    (folder / "recipe.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
