"""``llmrl export``: the model of a checkpoint as a folder, even while its stage is still unfinished."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrl.cluster.connection import connect
from llmrl.errors import CheckpointError, DataError, RecipeError, shown
from llmrl.recipe.schema import Cluster, Recipe, Role, Stage
from llmrl.registry import load_plugins
from llmrl.report.card import write_card
from llmrl.report.journal import FILE as JOURNAL
from llmrl.report.journal import read_journal
from llmrl.run.checkpoint import Checkpoint, Checkpoints, intact
from llmrl.run.hiring import hired
from llmrl.run.stage_plan import placed, start_folder

RECIPE = "recipe.json"
"""Name of the file that every run folder has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A checkpoint, with the recipe and stage that it belongs to."""

    recipe: Recipe
    """The recipe as it was run, with the run's present folder."""
    index: int
    """Index of the stage in the recipe."""
    checkpoint: Checkpoint

    @property
    def stage(self) -> Stage:
        """The stage as the recipe has it."""
        return self.recipe.stages[self.index]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.checkpoint.state.step


def export_model(where: Path, out: Path) -> Sealed:
    """Write the model of a checkpoint as the end of its stage would; the run itself is only read.

    Args:
        where: a run, one of its stages, or a checkpoint; a run or stage stands for its newest checkpoint.
        out: a new folder; it appears only when complete.

    Raises:
        LlmrlError: there is no such checkpoint, ``out`` exists, or the run could not resume from it.
    """
    out = out.absolute()
    if out.exists():
        raise RecipeError(f"OUT: {out} is already there, and nothing is replaced; name a new folder.")
    sealed = find_checkpoint(where)
    load_plugins(sealed.recipe.plugins)
    stage = _for_ranks(sealed)
    with _beside(out) as folder, _still_there(sealed.checkpoint.path), connect(stage.cluster):
        asyncio.run(_write_model(sealed, stage, Path(folder)))
        _write_card(sealed, Path(folder) / "model")
        (Path(folder) / "model").rename(out)
    return sealed


def find_checkpoint(where: Path) -> Sealed:
    """The checkpoint at ``where``; for a run or one of its stages, the newest.

    Raises:
        DataError: ``where`` is in no run, or the run is of another version of llmrl.
        CheckpointError: none is sealed there, or the named one is damaged.
    """
    where = where.resolve()
    recipe = _recipe(where)
    for index in reversed(range(len(recipe.stages))):
        if checkpoint := _checkpoint(recipe, index, where):
            return Sealed(recipe=recipe, index=index, checkpoint=checkpoint)
    raise CheckpointError(
        f"{where}: no checkpoint is sealed here; name a run, a stage or a checkpoint that has one, as a "
        "stage has at its end, every checkpoints.every_steps steps and after SIGTERM."
    )


def _checkpoint(recipe: Recipe, index: int, where: Path) -> Checkpoint | None:
    """The checkpoint that ``where`` denotes in one stage, if any."""
    stage, folder = recipe.stages[index], recipe.stage_folder(index)
    kept = folder / "checkpoints"
    if where in (recipe.folder, folder, kept):
        checkpoints = Checkpoints(kept, keep=stage.checkpoints.keep)
        return checkpoints.newest(otherwise="name another checkpoint")
    return intact(where) if where.parent == kept and where.is_dir() else None


def _recipe(where: Path) -> Recipe:
    """The recipe of the run that ``where`` is or lies in, with its present folder."""
    run = next((one for one in (where, *where.parents[:3]) if (one / RECIPE).is_file()), None)
    if run is None:
        raise DataError(f"{where}: no run is here; name a run's folder, or a stage or checkpoint inside it.")
    try:
        recipe = Recipe.model_validate(json.loads((run / RECIPE).read_text(encoding="utf-8"))["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        why = shown(" ".join(str(error).split()), 200)
        raise DataError(
            f"{run / RECIPE}: this version of llmrl cannot read it ({why}); use the version that wrote it."
        ) from error
    here = recipe.run.model_copy(update={"folder": run.parent, "name": run.name})
    return recipe.model_copy(update={"run": here})


def _for_ranks(sealed: Sealed) -> Stage:
    """The stage as its ranks load it, without roles."""
    start, folder = start_folder(sealed.recipe, sealed.index), sealed.recipe.stage_folder(sealed.index)
    stage = placed(sealed.stage, start, folder=folder)
    asked = {"roles": dict[str, Role](), "cluster": _with_variables(stage.cluster)}
    return stage.model_copy(update=asked)


def _with_variables(cluster: Cluster) -> Cluster:
    """The cluster table with variables from this environment: a run records only their names."""
    known = {name: os.environ[name] for name in cluster.environment if name in os.environ}
    return cluster.model_copy(update={"environment": known})


def _beside(out: Path) -> TemporaryDirectory[str]:
    """A temporary folder beside ``out``, which a finished model leaves by one rename."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RecipeError(
            f"OUT: nothing can be written into {out.parent} ({error.strerror}); name another folder."
        ) from error


@contextmanager
def _still_there(checkpoint: Path) -> Generator[None]:
    """Explain an error if the checkpoint vanished: a run that goes on removes older ones even while read."""
    try:
        yield
    except Exception as error:
        if checkpoint.exists():
            raise
        raise CheckpointError(
            f"{checkpoint} was removed while it was read, as its run goes on and keeps only the newest "
            "(checkpoints.keep); name a newer one."
        ) from error


async def _write_model(sealed: Sealed, stage: Stage, folder: Path) -> None:
    recipe, checkpoint = sealed.recipe, sealed.checkpoint.path
    async with hired(
        stage,
        seed=recipe.run.seed,
        plugins=recipe.plugins,
        engines=False,
        build=None,
        logs=folder / "logs",
    ) as crew:
        await crew.meet_in(folder)
        await crew.policy("find", checkpoint)
        await crew.policy("restore", checkpoint)
        await crew.policy("export", folder / "model")


def _write_card(sealed: Sealed, model: Path) -> None:
    """Write the model card with the evaluations up to the checkpoint's step."""
    entries = read_journal(sealed.recipe.stage_folder(sealed.index) / JOURNAL).evaluations
    known = [entry for entry in entries if entry.step <= sealed.step]
    before, after = (known[0], known[-1]) if known else (None, None)
    write_card(model, sealed.recipe, sealed.stage, before, after, steps=sealed.step)
