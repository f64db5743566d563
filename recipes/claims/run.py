"""One run of a claim: an arm with a seed, from the warm start that all arms of the seed share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

from llmrl.recipe.load import Loaded, load_recipe
from llmrl.run.start import train_recipe
from recipes.claims.claim import Claim
from recipes.claims.here import everything_here

RUNS = Path("runs/claims")

DIGITS = 5
"""Significant digits of what is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is kept of a run."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    """Besides the arm's own: what was tried while tuning."""
    seconds: float
    """Wall time, process start included, the warm start excluded."""
    numbers: dict[str, float]
    along: list[float]
    up: list[float]


def warm(claim: Claim, seed: int) -> None:
    """Train the model that every arm of a seed starts from, unless it is there."""
    loaded = _warm(claim, seed)
    if not (_model(loaded) / "config.json").exists():
        _train(loaded)


def run(claim: Claim, arm: str, seed: int, overrides: Sequence[str] = ()) -> Result:
    """Train and measure one arm, unless that has been done."""
    tried = _digest("\n".join(overrides)) if overrides else "as-is"
    chosen = (f'model.path="{_model(_warm(claim, seed)).resolve()}"', *claim.arms[arm], *overrides)
    loaded = stage_of(claim, 1, seed=seed, name=f"{arm}-{tried}", overrides=chosen)
    kept = loaded.recipe.folder / "result.json"
    if not kept.exists():
        began = monotonic()
        _train(loaded)
        measured = claim.measure(loaded.recipe.stage_folder(0))
        along, up = ([_rounded(value) for value in values] for values in measured.curve)
        numbers = {name: _rounded(value) for name, value in measured.numbers.items()}
        result = Result(
            arm=arm,
            seed=seed,
            overrides=tuple(overrides),
            seconds=round(monotonic() - began, 1),
            numbers=numbers,
            along=along,
            up=up,
        )
        kept.write_text(json.dumps(asdict(result)), encoding="ascii")
    told = json.loads(kept.read_text(encoding="ascii"))
    return Result(**told | {"overrides": tuple(told["overrides"])})


def _warm(claim: Claim, seed: int) -> Loaded:
    """The first stage of the recipe, in a folder that claims with the same beginning share."""
    loaded = stage_of(claim, 0, seed=seed, name=claim.name, overrides=())
    tables = loaded.recipe.stages[0].model_dump_json(include={"model", "prompts", "objective", "optimizer"})
    named = {"name": f"{_digest(tables)}-{seed}", "folder": RUNS / "warm"}
    run = loaded.recipe.run.model_copy(update=named)
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"run": run}))


def _model(warm: Loaded) -> Path:
    return warm.recipe.stage_folder(0) / "model"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _train(loaded: Loaded) -> None:
    with everything_here():
        train_recipe(loaded, existing="fresh")


def stage_of(claim: Claim, stage: int, *, seed: int, name: str, overrides: Sequence[str]) -> Loaded:
    """The claim's recipe with one of its stages left."""
    stages = load_recipe(claim.recipe).recipe.stages
    own = [f"stages.{stages[stage].name}.{override}" for override in overrides]
    folder = RUNS / claim.name / str(seed)
    loaded = load_recipe(
        claim.recipe, [*own, f"run.seed={seed}", f'run.folder="{folder}"', f'run.name="{name}"']
    )
    kept = loaded.recipe.model_copy(update={"stages": (loaded.recipe.stages[stage],)})
    return replace(loaded, recipe=kept)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
