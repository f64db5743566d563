"""Wall time and responses until a policy is right nine times in ten: our run against TRL's GRPOTrainer.

    .venv/bin/python -m tests.speed.table accuracy      (needs a package registry; minutes for each pair)
    .venv/bin/python -m tests.speed.accuracy recipes/quickstart/digits.toml [pairs]       (on another recipe)

Both start from the same warm model and train on the same problems with the same reward, group size, batch,
budget, optimizer and learning rate, until the mean of the last five steps' rewards is ``GOAL``. TRL is
installed into a folder of its own beside our environment's libraries and gets both cores, with one or two
threads, whichever is faster; ours is ``llmrl train`` as anybody would start it, asynchronous as its recipe
says. Where there is one GPU both sides use it, ours in turns.
What counts begins with the first step and ends with the last one: both load and start before, and both are
ended at the goal.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from llmrl.report.journal import read_journal
from tests.speed.compare import HEADER, Row

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "speed" / "lengths.toml"
PEER = "trl==1.16.0"
GOAL = 0.9
MEAN_OF = 5
TRIAL_STEPS = 4
DEADLINE_S = 2400
POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When the goal was reached."""

    seconds: float
    steps: int


def reached(rewards: Sequence[float], seconds: Sequence[float]) -> Reached | None:
    """The first step at which the running mean is at the goal; None if there is none."""
    for step in range(MEAN_OF, len(rewards) + 1):
        if statistics.fmean(rewards[step - MEAN_OF : step]) >= GOAL:
            return Reached(seconds=seconds[step - 1], steps=step)
    return None


def stage_alone(recipe: Path, stage: str, folder: Path, *, model: Path | None = None) -> Path:
    """One stage of a recipe as a recipe of its own in ``folder``, from ``model`` if there is one."""
    shared, *stages = recipe.read_text(encoding="utf-8").split("[[stages]]")
    (chosen,) = (one for one in stages if f'name = "{stage}"' in one)
    text = re.sub(
        r'^name = ".*"$', f'name = "{stage}"\nfolder = "{folder}"', shared, count=1, flags=re.MULTILINE
    )
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


def started(recipe: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """As anybody would start it."""
    command = [sys.executable, "-m", "llmrl.cli", "train", str(recipe), *overrides]
    return subprocess.Popen(command, stdout=sys.stderr)


def finished(run: subprocess.Popen[bytes]) -> None:
    """Wait for its end.

    Raises:
        RuntimeError: it was not a good one.
    """
    if code := run.wait(DEADLINE_S):
        raise RuntimeError(f"a run ended with {code}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What both sides start from."""

    recipe: Path
    folder: Path
    model: Path

    def ours(self, seed: int) -> Reached:
        """``llmrl train``: two processes beside the driver, one core's threads each."""
        recipe = stage_alone(self.recipe, "grpo", self.folder, model=self.model)
        nothing_else = ("evaluation.sources=[]", "stages.grpo.evaluation.every_steps=0")
        placed = ("cluster.placement=shared",) if torch.cuda.device_count() == 1 else ()
        run = started(recipe, f"run.seed={seed}", f"run.name=ours-{seed}", *nothing_else, *placed)
        journal = self.folder / f"ours-{seed}" / "0-grpo" / "metrics.jsonl"
        while (own := self._reached(journal)) is None and run.poll() is None:
            time.sleep(POLL_S)
        run.terminate()  # it saves what it has and ends well
        finished(run)
        return self._wanted(own, "llmrl", seed)

    def theirs(self, seed: int, *, threads: int) -> Reached:
        """TRL on both cores."""
        return self._wanted(reached(*self._trl(seed, threads=threads)), "TRL", seed)

    @staticmethod
    def _reached(journal: Path) -> Reached | None:
        steps = read_journal(journal).steps if journal.exists() else ()
        return reached([one.metrics["reward/mean"] for one in steps], [one.seconds for one in steps])

    @staticmethod
    def _wanted(found: Reached | None, side: str, seed: int) -> Reached:
        if found is None:
            raise RuntimeError(f"{side} had no {MEAN_OF} steps with a mean reward of {GOAL}, seed {seed}")
        sys.stderr.write(f"{side}, seed {seed}: {found.seconds:.1f} s, {found.steps} steps\n")
        return found

    def threads(self) -> int:
        """With how many threads TRL is faster here: seconds of its first steps after one to warm up."""

        def spent(threads: int) -> float:
            _, seconds = self._trl(0, threads=threads, steps=TRIAL_STEPS)
            return seconds[-1] - seconds[0]

        return min((1, 2), key=spent)

    def _trl(self, seed: int, *, threads: int, steps: int | None = None) -> tuple[list[float], list[float]]:
        out = self.folder / f"theirs-{seed}.json"
        job = {"model": str(self.model), "recipe": str(self.recipe), "seed": seed, "out": str(out)}
        job |= {"goal": GOAL, "mean_of": MEAN_OF, "steps": steps}
        env = os.environ | {"PYTHONPATH": f"{self.folder / 'peer'}:{ROOT}", "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "tests.speed.peer_trl", json.dumps(job)]
        subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=sys.stderr, env=env, cwd=self.folder)
        written = json.loads(out.read_text(encoding="utf-8"))
        return written["rewards"], written["seconds"]


def rows(pairs: int, recipe: Path = RECIPE) -> list[Row]:
    """Time and responses to the goal over TRL's, a seed for each pair, whoever begins in turns."""
    with TemporaryDirectory(prefix="llmrl-speed-") as scratch:
        folder = Path(scratch)
        install_peer(folder / "peer")
        finished(started(stage_alone(recipe, "warm", folder)))
        race = Race(recipe=recipe, folder=folder, model=folder / "warm" / "0-warm" / "model")
        threads = race.threads()
        found: list[tuple[Reached, Reached]] = []
        for seed in range(pairs):
            if seed % 2:
                peer = race.theirs(seed, threads=threads)
                found.append((race.ours(seed), peer))
            else:
                own = race.ours(seed)
                found.append((own, race.theirs(seed, threads=threads)))
    trl = statistics.median(peer.seconds for _, peer in found)
    what = f"{recipe.stem}; TRL {trl:.0f} s with {threads} threads"
    return [
        Row(
            what=f"wall to mean reward {GOAL} over TRL 1.16 ({what})",
            ratios=[own.seconds / peer.seconds for own, peer in found],
            target=0.60,
            at_most=True,
        ),
        Row(
            what=f"responses to mean reward {GOAL} over TRL's ({recipe.stem})",
            ratios=[own.steps / peer.steps for own, peer in found],
            target=1.10,
            at_most=True,
        ),
    ]


if __name__ == "__main__":
    chosen, *count = sys.argv[1:]
    found = rows(int(count[0]) if count else 5, Path(chosen).resolve())
    sys.stdout.write(HEADER + "".join(f"{row}\n" for row in found))
