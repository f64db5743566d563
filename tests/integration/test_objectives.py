"""Every objective as a whole run, reduced: the recipes of recipes/objectives, two steps from a warm model.

Each runs in one process, without Ray between engine, policy, loop and rewards (recipes/claims/here.py). Two
also run through Ray, one on pairs of the dataset, one with an engine and an opponent. That each of the others
does is not shown: all that crosses this boundary of an objective is a Stage and Columns, alike for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pytest

from llmrl.cluster.connection import process_environment
from llmrl.objectives import objective
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Cluster
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe
from recipes.claims.here import everything_here

RECIPES = Path(__file__).parents[2] / "recipes" / "objectives"
PAIRS = ("dpo", "hinge", "ipo", "cdpo", "rdpo")
OPPONENTS = ("nash_md", "nash_ema", "xpo", "online_dpo", "online_ipo", "rebel")
CONVERSATIONS = ("refuel", "empg")
OTHERS = {*PAIRS, *OPPONENTS, *CONVERSATIONS, "sft"}

REDUCED = ('engines.kind="torch"', "cluster.threads_per_process=1", "report.trackers=[]")
WARMED = (*REDUCED, "stages.warm.optimizer.steps=150")
TRAINED = (
    *REDUCED,
    "stages.train.prompts.sources.0.rows=400",
    "stages.train.prompts.per_step=8",
    "stages.train.optimizer.steps=2",
    "stages.train.optimizer.minibatches=2",
    "stages.train.evaluation.sources=[]",
    "stages.train.report.samples_every_steps=1",
)
OWN = {"xpo": ("stages.train.rollouts.per_prompt=1",)}
UNCHECKED = "stages.train.scoring.check_answers=false"
"""What Ray's runs check of the rows' answers holds for the others, which have the same rows."""

FORK = get_context("forkserver")
FORK.set_forkserver_preload([__name__, "llmrl.policy.worker", "llmrl.rollouts.engines.torch_engine"])

Warm = Callable[[str], Path]
"""The folder of the model that the last stage of a recipe starts from."""


def built_in() -> tuple[str, ...]:
    return tuple(n for n in objective.names if objective.get(n, key="").__module__.startswith("llmrl."))


ROLLOUTS = tuple(sorted(set(built_in()) - OTHERS))
EACH = {
    **dict.fromkeys(ROLLOUTS, "rollouts"),
    **dict.fromkeys(PAIRS, "pairs"),
    **dict.fromkeys(OPPONENTS, "opponents"),
    **dict.fromkeys(CONVERSATIONS, "conversations"),
}


def train(recipe: str, stage: str, overrides: Sequence[str]) -> None:
    """One stage of a recipe."""
    loaded = load_recipe(RECIPES / f"{recipe}.toml", overrides)
    only = tuple(one for one in loaded.recipe.stages if one.name == stage)
    train_recipe(replace(loaded, recipe=loaded.recipe.model_copy(update={"stages": only})))


def train_here(recipe: str, stage: str, overrides: Sequence[str]) -> None:
    """One stage of a recipe without Ray, once in a process, as ranks meet once in a process."""
    with everything_here():
        train(recipe, stage, overrides)


def train_in_a_child(recipe: str, stage: str, overrides: Sequence[str]) -> None:
    """One stage of a recipe in a process of its own, forked of one that has imported everything."""
    child = FORK.Process(target=train_here, args=(recipe, stage, overrides), daemon=True)
    child.start()
    child.join()
    assert child.exitcode == 0


def chosen(name: str, folder: Path, model: Path) -> list[str]:
    """What two steps of an objective override."""
    own = (f'stages.train.objective.name="{name}"', *OWN.get(name, ()))
    return [*TRAINED, *own, f'stages.train.model.path="{model}"', f'run.folder="{folder}"']


def check(name: str, folder: Path) -> None:
    steps = read_journal(folder / EACH[name] / "0-train" / "metrics.jsonl").steps
    assert len(steps) == 2
    for step in steps:
        assert {key: v for key, v in step.metrics.items() if not math.isfinite(v)} == {}
        assert step.metrics["policy/skipped"] == 0
    # Timing decides which groups a step trains on; it may have none whose rewards differ.
    assert sum(step.metrics["policy/grad_norm"] for step in steps) > 0


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What the children inherit: they compute on the CPU, and find plugins and this module by name."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in process_environment(Cluster(), device="cpu").items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Trains when it is first asked; recipes about the same digit sums have the same first stage."""

    @cache
    def trained(recipe: str) -> Path:
        folder = tmp_path_factory.mktemp(recipe)
        train_in_a_child(recipe, "warm", [*WARMED, f'run.folder="{folder}"'])
        return folder / recipe / "0-warm" / "model"

    return lambda recipe: trained("conversations" if recipe == "conversations" else "rollouts")


@pytest.mark.parametrize("name", EACH)
def test_two_steps_of_an_objective_are_taken_with_a_finite_gradient(
    tmp_path: Path, warm: Warm, name: str
) -> None:
    recipe = EACH[name]

    train_in_a_child(recipe, "train", [*chosen(name, tmp_path, warm(recipe)), UNCHECKED])

    check(name, tmp_path)


@pytest.mark.parametrize("name", ["dpo", "nash_md"])
def test_an_objective_is_trained_by_processes_that_ray_starts(tmp_path: Path, warm: Warm, name: str) -> None:
    train(EACH[name], "train", chosen(name, tmp_path, warm(EACH[name])))

    check(name, tmp_path)
