"""Every objective as a whole run, reduced: the recipes of recipes/objectives, two steps for each."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest

from llmrl.objectives import objective
from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "objectives"
PAIRS = ("dpo", "hinge", "ipo", "cdpo", "rdpo")
OPPONENTS = ("nash_md", "nash_ema", "xpo", "online_dpo", "online_ipo", "rebel")
CONVERSATIONS = ("refuel", "empg")
OTHERS = {*PAIRS, *OPPONENTS, *CONVERSATIONS, "sft"}
PARTS = 4
"""Runs that share the objectives out: each stage starts its processes."""
REDUCED = (
    'engines.kind="torch"',
    "cluster.threads_per_process=1",
    "report.trackers=[]",
    "report.samples_every_steps=1",
    "stages.warm.optimizer.steps=150",
)


def built_in() -> tuple[str, ...]:
    return tuple(n for n in objective.names if objective.get(n, key="").__module__.startswith("llmrl."))


def staged(name: str, objectives: tuple[str, ...]) -> str:
    """The recipe with its last stage once for each objective, two steps long."""
    text = (RECIPES / f"{name}.toml").read_text()
    lr = tomllib.loads(text)["stages"][-1]["optimizer"]["lr"]
    stages = (
        f'[[stages]]\nname = "{one}"\nobjective = {{ name = "{one}" }}\nevaluation = {{ sources = [] }}\n'
        f"{'rollouts = { per_prompt = 1 }' if one == 'xpo' else ''}\n"
        f"prompts = {{ per_step = 8 }}\noptimizer = {{ steps = 2, minibatches = 2, lr = {lr} }}\n"
        for one in objectives
    )
    return text[: text.rindex("[[stages]]")] + "".join(stages)


def check_all(folder: Path, name: str, objectives: tuple[str, ...]) -> None:
    recipe = folder / "all.toml"
    recipe.write_text(staged(name, objectives))

    train_recipe(load_recipe(recipe, [*REDUCED, f"run.folder={folder}"]))

    for number, one in enumerate(objectives, start=1):
        steps = read_journal(folder / "all" / f"{number}-{one}" / "metrics.jsonl").steps
        assert len(steps) == 2, one
        for step in steps:
            assert {key: v for key, v in step.metrics.items() if not math.isfinite(v)} == {}, one
            assert step.metrics["policy/skipped"] == 0, one
        # Timing decides which groups a step trains on; it may have none whose rewards differ.
        assert sum(step.metrics["policy/grad_norm"] for step in steps) > 0, one


@pytest.mark.parametrize("part", range(PARTS))
def test_objectives_on_the_responses_of_the_policy(tmp_path: Path, part: int) -> None:
    check_all(tmp_path, "rollouts", tuple(sorted(set(built_in()) - OTHERS))[part::PARTS])


def test_objectives_on_pairs_of_the_dataset(tmp_path: Path) -> None:
    check_all(tmp_path, "pairs", PAIRS)


def test_objectives_with_a_preference_and_an_opponent(tmp_path: Path) -> None:
    check_all(tmp_path, "opponents", OPPONENTS)


def test_objectives_on_conversations(tmp_path: Path) -> None:
    check_all(tmp_path, "conversations", CONVERSATIONS)
