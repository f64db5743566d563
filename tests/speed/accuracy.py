"""Wall time and responses until a policy is right nine times in ten: our run against TRL's GRPOTrainer.

    .venv/bin/python -m tests.speed.table accuracy      (needs a package registry; minutes for each pair)

Both start from the same warm model and train on the same problems with the same reward, group size, batch,
optimizer and learning rate, until the mean of the last five steps' rewards is ``GOAL``. TRL is installed into
a folder of its own beside our environment's libraries and gets both cores; ours is ``llmrl train`` as
anybody would start it. What counts begins with the first step: both load and start before.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrl.report.journal import read_journal
from tests.speed.compare import Row

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "quickstart" / "digits.toml"
PEER = "trl==1.16.0"
GOAL = 0.9
MEAN_OF = 5
DEADLINE_S = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When the goal was reached."""

    seconds: float
    steps: int


def reached(rewards: Sequence[float], seconds: Sequence[float]) -> Reached:
    """The first step at which the running mean is at the goal, or the last step if none is.

    Raises:
        ValueError: it was never reached.
    """
    for step in range(MEAN_OF, len(rewards) + 1):
        if statistics.fmean(rewards[step - MEAN_OF : step]) >= GOAL:
            return Reached(seconds=seconds[step - 1], steps=step)
    raise ValueError(f"no {MEAN_OF} of {len(rewards)} steps had a mean reward of {GOAL}")


def quickstart(folder: Path, stage: str, *, model: Path | None = None) -> Path:
    """One stage of the quickstart as a recipe of its own, from ``model`` if there is one."""
    shared, *stages = RECIPE.read_text(encoding="utf-8").split("[[stages]]")
    (chosen,) = (one for one in stages if f'name = "{stage}"' in one)
    text = shared.replace('name = "quickstart"', f'name = "{stage}"\nfolder = "{folder}"')
    if model:
        text = re.sub(r"^config = .*$", f'path = "{model}"', text, flags=re.MULTILINE)
        text = re.sub(r"^characters = .*$", "", text, flags=re.MULTILINE)
    path = folder / f"{stage}.toml"
    path.write_text(f"{text}[[stages]]{chosen}", encoding="utf-8")
    return path


def install_peer(folder: Path) -> None:
    """TRL alone; what it needs is in our environment already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PEER]
    subprocess.run(command, check=True, timeout=DEADLINE_S)


def train(recipe: Path, *overrides: str) -> None:
    """As anybody would start it."""
    command = [sys.executable, "-m", "llmrl.cli", "train", str(recipe), *overrides]
    subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=sys.stderr)


def ours(folder: Path, model: Path, seed: int) -> Reached:
    """``llmrl train``: two processes beside the driver, one core's threads each."""
    recipe = quickstart(folder, "grpo", model=model)
    nothing_else = ("evaluation.sources=[]", "stages.grpo.evaluation.every_steps=0")
    train(recipe, f"run.seed={seed}", f"run.name=ours-{seed}", *nothing_else)
    steps = read_journal(folder / f"ours-{seed}" / "0-grpo" / "metrics.jsonl").steps
    return reached([one.metrics["reward/mean"] for one in steps], [one.seconds for one in steps])


def theirs(folder: Path, model: Path, seed: int) -> Reached:
    """TRL with both cores."""
    out = folder / f"theirs-{seed}.json"
    goal = {"goal": GOAL, "mean_of": MEAN_OF}
    job = {"model": str(model), "recipe": str(RECIPE), "seed": seed, "out": str(out), **goal}
    env = os.environ | {"PYTHONPATH": f"{folder / 'peer'}:{ROOT}", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "tests.speed.peer_trl", json.dumps(job)]
    subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=sys.stderr, env=env, cwd=folder)
    written = json.loads(out.read_text(encoding="utf-8"))
    return reached(written["rewards"], written["seconds"])


def rows(pairs: int) -> list[Row]:
    """Time and responses to the goal over TRL's, a seed for each pair, whoever begins in turns."""
    with TemporaryDirectory(prefix="llmrl-speed-") as scratch:
        folder = Path(scratch)
        install_peer(folder / "peer")
        train(quickstart(folder, "warm"))
        model = folder / "warm" / "0-warm" / "model"
        found: list[tuple[Reached, Reached]] = []
        for seed in range(pairs):
            sides = [ours, theirs][:: 1 if seed % 2 == 0 else -1]
            done = {side: side(folder, model, seed) for side in sides}
            found.append((done[ours], done[theirs]))
    trl = statistics.median(peer.seconds for _, peer in found)
    return [
        Row(
            what=f"wall to mean reward {GOAL} over TRL 1.16 (quickstart, TRL {trl:.0f} s)",
            ratios=[own.seconds / peer.seconds for own, peer in found],
            target=0.60,
            at_most=True,
        ),
        Row(
            what=f"responses to mean reward {GOAL} over TRL's",
            ratios=[own.steps / peer.steps for own, peer in found],
            target=1.10,
            at_most=True,
        ),
    ]
