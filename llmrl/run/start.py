"""From a recipe to a finished run: check everything, then stage after stage, then the report."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llmrl.cluster.connection import connect
from llmrl.errors import RecipeError
from llmrl.objectives.algorithm import Algorithm
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.arithmetic import arithmetic
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import Loaded
from llmrl.recipe.schema import Model, Prompts, Recipe, Stage
from llmrl.report.console import ConsoleReport, final_line
from llmrl.report.html import write_report
from llmrl.rewards.gold import check_answers
from llmrl.rewards.scorer import Scorer
from llmrl.run.stage import StagePlan, StageResult, run_stage

Existing = Literal["refuse", "resume", "fresh"]
"""What to do with a run folder that is already there."""


def train_recipe(loaded: Loaded, *, existing: Existing = "refuse") -> None:
    """Run every stage of a recipe.

    Raises:
        LlmrlError: anything that llmrl can explain; data and recipe errors before Ray starts.
    """
    began = time.monotonic()
    check_recipe(loaded)
    recipe = loaded.recipe
    with ConsoleReport() as console:
        results = asyncio.run(_run(loaded, _folder(recipe, existing), console))
        console.note(f"report: {write_report(recipe.folder)}")
        first = next((r.before for r in results if r.before), None)
        last = next((r.after for r in reversed(results) if r.after), None)
        if first and last:
            console.note(final_line(first, last, time.monotonic() - began))


async def _run(loaded: Loaded, folder: Path, console: ConsoleReport) -> list[StageResult]:
    recipe = loaded.recipe
    written = {"recipe": recipe.model_dump(mode="json"), "arithmetic": arithmetic(recipe)}
    (folder / "recipe.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    results: list[StageResult] = []
    plans = [_plan(recipe, index) for index in range(len(recipe.stages))]
    try:
        for plan in plans:
            await plan.scorer.start()
            if plan.online and plan.stage.scoring.check_answers:
                await check_answers(plan.scorer, [*plan.stream.rows, *plan.evaluated])
        with connect(recipe.stages[0].cluster, cpus=max(_cpus(stage) for stage in recipe.stages)):
            for plan in plans:
                results.append(await run_stage(recipe, plan, console))
    finally:
        for plan in plans:
            await plan.scorer.close()
    return results


def _plan(recipe: Recipe, index: int) -> StagePlan:
    """Read everything that a stage reads; each stage after the first starts from the one before."""
    stage = recipe.stages[index]
    tokenizer = load_tokenizer(stage.model)
    stream = PromptStream(stage.prompts, tokenizer, seed=recipe.run.seed)
    build = stage.model if stage.model.config is not None and index == 0 else None
    path = recipe.stage_folder(index - 1) / "model" if index else recipe.folder / "model" if build else stage.model.path
    model = stage.model.model_copy(update={"path": str(path), "config": None})
    folder = recipe.stage_folder(index)
    folder.mkdir(exist_ok=True)
    return StagePlan(
        index=index,
        stage=stage.model_copy(update={"model": model}),
        build=build,
        tokenizer=tokenizer,
        stream=stream,
        evaluated=_held_out(stage, tokenizer, seed=recipe.run.seed),
        algorithm=Algorithm.of(stage),
        scorer=Scorer(stage.rewards, stage.scoring, recipe.plugins),
        folder=folder,
    )
