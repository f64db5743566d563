"""From a recipe to a finished run: check everything, then stage after stage, then the report."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from llmrl.cluster.connection import connect, process_environment
from llmrl.cluster.placement import check_fit, choose_device, list_nodes, needs
from llmrl.errors import ModelError, PlacementError, RecipeError
from llmrl.objectives.algorithm import Algorithm
from llmrl.policy.folder import check_folder, check_heads, check_length, find_folder, load_config
from llmrl.prompts.reads import Reads
from llmrl.prompts.stream import PromptStream, held_out
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.arithmetic import arithmetic
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import Loaded, where_in
from llmrl.recipe.roles import asked_roles, stage_named
from llmrl.recipe.schema import Model, Recipe, Reward, Role, Stage
from llmrl.report.console import ConsoleReport, final_line
from llmrl.report.html import write_report
from llmrl.rewards import build_rewards
from llmrl.rewards.gold import check_answers
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.roles.switchboard import Switchboard
from llmrl.rollouts.rehearsal import rehearse
from llmrl.run.stage import StagePlan, StageResult, run_stage
from llmrl.run.stop import StopRequest

Table = TypeVar("Table", bound="Model | Role")

Existing = Literal["refuse", "resume", "fresh"]
"""What to do with a run folder that is already there."""


def train_recipe(loaded: Loaded, *, existing: Existing = "refuse") -> None:
    """Run every stage of a recipe.

    Raises:
        LlmrlError: what llmrl can explain; what is wrong with recipe or data is said before Ray starts.
    """
    began = time.monotonic()
    check_recipe(loaded)
    recipe = loaded.recipe
    with ConsoleReport() as console:
        plans = [_plan(recipe, index) for index in range(len(recipe.stages))]
        results = asyncio.run(_run(recipe, plans, console, existing))
        console.note(f"report: {write_report(recipe.folder)}")
        before = next((r.before for r in results if r.before), None)
        after = next((r.after for r in reversed(results) if r.after), None)
        if before and after:
            console.note(final_line(before, after, time.monotonic() - began))


async def _run(
    recipe: Recipe, plans: list[StagePlan], console: ConsoleReport, existing: Existing
) -> list[StageResult]:
    scorers = [plan.scorer for plan in plans if plan.scorer]
    switchboard = Switchboard()
    try:
        if any(plan.stage.roles for plan in plans):
            await switchboard.open()
        for plan in plans:
            await _check_rewards(plan, door=switchboard.url)
            await _check_environment(plan, recipe.plugins, door=switchboard.url)
        _refuse_existing(recipe, existing)
        newest = [plan.newest() if existing == "resume" else None for plan in plans]
        stop = StopRequest()
        with connect(recipe.stages[0].cluster):
            _check_room(recipe, plans)
            _open_folder(recipe, existing)
            stop.listen()
            return [
                await run_stage(recipe, plan, checkpoint, console, stop, switchboard)
                for plan, checkpoint in zip(plans, newest, strict=True)
            ]
    finally:
        for scorer in scorers:
            await scorer.close()
        await switchboard.close()


async def _check_rewards(plan: StagePlan, *, door: str) -> None:
    if plan.scorer is None:
        return
    await plan.scorer.start(door=door)
    if plan.stage.scoring.check_answers:
        await check_answers(plan.scorer, [*(plan.stream.rows if plan.online else ()), *plan.evaluated])


def _check_room(recipe: Recipe, plans: Sequence[StagePlan]) -> None:
    """Nothing is trained for a later stage that the cluster cannot hold."""
    nodes = list_nodes()
    for index, plan in enumerate(plans):
        device = choose_device(plan.stage)
        try:
            check_fit(needs(plan.stage, device=device, engines=plan.generates), nodes)
        except PlacementError as error:
            raise PlacementError(f"{where_in(recipe, index)}{error}") from error


async def _check_environment(plan: StagePlan, plugins: Sequence[str], *, door: str) -> None:
    """Whatever an environment needs and misses is said now, not after the stages before it have trained."""
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


def _plan(recipe: Recipe, index: int) -> StagePlan:
    """Read everything that a stage reads. Each stage after the first starts from the one before."""
    stage, start = recipe.stages[index], recipe.stages[0].model
    build = start if index == 0 and start.config is not None else None
    if index:
        path = recipe.stage_folder(index - 1) / "model"
    elif build:
        path = recipe.folder / "model"
    else:
        path = find_folder(start)
        check_folder(path, start)
    if index == 0:
        check_heads(start, path, sharers=[each.policy.sequence_parallel for each in recipe.stages])
    tokenizer = load_tokenizer(
        stage.model.model_copy(update=start.model_dump(include={"path", "config", "characters"}))
    )
    seed = recipe.run.seed
    algorithm = Algorithm.of(stage)
    rewards = dict(algorithm.bundle.rewards)
    answered = _reads_answers(stage, rewards)
    evaluated = held_out(
        stage.evaluation,
        tokenizer,
        max_tokens=stage.prompts.max_tokens,
        seed=seed,
        reads=Reads(answer=answered, response=False),
    )
    judged = bool(evaluated) or algorithm.online
    return StagePlan(
        written=stage,
        stage=stage.model_copy(
            update={
                "model": _found(stage.model, path).model_copy(update={"config": None}),
                "rewards": rewards,
                "roles": _found_roles(recipe, stage),
                "opponent": algorithm.bundle.opponent,
            }
        ),
        build=build,
        tokenizer=tokenizer,
        stream=PromptStream(
            stage.prompts,
            tokenizer,
            seed=seed,
            max_response_tokens=None if algorithm.online else stage.rollouts.max_tokens,
            reads=Reads(answer=algorithm.online and answered, response=not algorithm.online),
        ),
        evaluated=evaluated[: stage.evaluation.prompts],
        algorithm=algorithm,
        scorer=Scorer(rewards, stage.scoring, recipe.plugins) if judged else None,
        folder=recipe.stage_folder(index),
    )


def _reads_answers(stage: Stage, rewards: Mapping[str, Reward]) -> bool:
    """Whether somebody looks at gold answers; an environment always may."""
    return stage.environment is not None or any(one.reads_answer for one in build_rewards(rewards).values())


def _found_roles(recipe: Recipe, stage: Stage) -> dict[str, Role]:
    """The roles that a stage asks, each with the folder that its processes load."""
    return {name: _found_role(recipe, name, table) for name, table in asked_roles(stage).items()}


def _found_role(recipe: Recipe, name: str, table: Role) -> Role:
    place = stage_named(recipe, table.path)
    if place is not None:
        return table.model_copy(update={"path": str(recipe.stage_folder(place) / "model")})
    model = Model(path=table.path, trust_remote_code=table.trust_remote_code)
    try:
        folder = find_folder(model)
        config = load_config(folder, model)
    except ModelError as error:
        raise ModelError(f"roles.{name}: {error}") from error
    check_length(folder, config, table.context_tokens, key=f"roles.{name}.context_tokens")
    return _found(table, folder)


def _found(table: Table, folder: Path) -> Table:
    """The table of a model that lies in ``folder``: who trusts its code trusts it where it was found."""
    code = str(folder) if table.trust_remote_code == table.path else None
    return table.model_copy(update={"path": str(folder), "trust_remote_code": code})


def _refuse_existing(recipe: Recipe, existing: Existing) -> None:
    if recipe.folder.exists() and existing == "refuse":
        raise RecipeError(
            f"run.name: {recipe.folder} is already there; go on with --resume, replace it with --fresh, "
            "or rename the run."
        )


def _open_folder(recipe: Recipe, existing: Existing) -> None:
    folder = recipe.folder
    if folder.exists() and existing == "fresh":
        shutil.rmtree(folder)
    for index in range(len(recipe.stages)):
        recipe.stage_folder(index).mkdir(parents=True, exist_ok=True)
    written = {"recipe": recipe.model_dump(mode="json"), "arithmetic": arithmetic(recipe)}
    (folder / "recipe.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
