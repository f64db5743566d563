"""Run the claims: ``python -m recipes.claims tune|test|write``, from the root of the repository.

A run that is finished is not run again; delete its folder under runs/claims to do so.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Annotated

import typer

from recipes.claims.claim import TESTING, TUNING, Claim
from recipes.claims.kept import PAGE, on_page, read_results, write_results
from recipes.claims.listed import CLAIMS
from recipes.claims.run import RUNS, Result, run, warm
from recipes.claims.verdict import table

DEADLINE_S = 900.0
"""Of one run."""

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")]
Seed = Annotated[int | None, typer.Option(help="Only this one of them.")]
Arms = Annotated[str, typer.Option(help="Only these, with commas between.")]


@app.command()
def tune(
    claim: str, overrides: Overrides = None, *, arms: Arms = "", seed: Seed = None, at_once: int = 2
) -> None:
    """Try overrides on the tuning seeds."""
    chosen = arms.split(",") if arms else list(CLAIMS[claim].arms)
    seeds = [one for one in TUNING if seed in (None, one)]
    _told(_all(CLAIMS[claim], chosen, seeds, overrides or (), at_once))


@app.command("test")
def run_tests(claim: str, *, at_once: int = 2) -> None:
    """Run every arm on the testing seeds, and keep what came of it under docs/claims."""
    arms = list(CLAIMS[claim].arms)
    results = _all(CLAIMS[claim], arms, TESTING, (), at_once)
    if missing := len(arms) * len(TESTING) - len(results):
        typer.echo(
            f"{missing} of {len(arms) * len(TESTING)} runs failed: nothing is kept; run it again.", err=True
        )
        raise typer.Exit(1)
    write_results(CLAIMS[claim], results)
    typer.echo(table(CLAIMS[claim], results))


@app.command()
def write() -> None:
    """Write the tables of docs/claims.md from what is kept under docs/claims."""
    page = PAGE.read_text(encoding="utf-8")
    for claim in CLAIMS.values():
        page = on_page(claim, read_results(claim), page)
    PAGE.write_text(page, encoding="utf-8")


def _told(results: Sequence[Result]) -> None:
    for one in results:
        numbers = ", ".join(f"{name} {value:g}" for name, value in one.numbers.items())
        typer.echo(f"{one.arm} {one.seed} {one.seconds:.0f} s: {numbers}")


def _all(
    claim: Claim, arms: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], at_once: int
) -> list[Result]:
    """Every arm with every seed, so many at a time; what fails is told, and the rest goes on."""
    folder = RUNS / claim.name
    _in_turn([(folder / f"{seed}-warm.log", _bound(warm, claim, seed)) for seed in seeds], at_once)
    runs = [(arm, seed) for seed in seeds for arm in arms]
    logs = [folder / f"{seed}-{arm}.log" for arm, seed in runs]
    calls = [_bound(run, claim, arm, seed, overrides) for arm, seed in runs]
    fine = _in_turn(list(zip(logs, calls, strict=True)), at_once)
    return [run(claim, *each, overrides) for each, well in zip(runs, fine, strict=True) if well]


def _bound(call: Callable[..., object], *args: object) -> Callable[[], object]:
    return lambda: call(*args)


def _in_turn(calls: Sequence[tuple[Path, Callable[[], object]]], at_once: int) -> list[bool]:
    """Each call in a child of its own, which has imported everything already; whether it went well."""
    fork = multiprocessing.get_context("fork")
    started: list[ForkProcess] = []
    for log, call in calls:
        while sum(child.is_alive() for child in started) >= at_once:
            time.sleep(0.1)
        started.append(fork.Process(target=_quietly, args=(log, call)))
        started[-1].start()
    for child, (log, _) in zip(started, calls, strict=True):
        child.join(DEADLINE_S)
        if child.is_alive():
            child.kill()
        elif child.exitcode:
            typer.echo(f"failed: {log}", err=True)
    return [child.exitcode == 0 for child in started]


def _quietly(log: Path, call: Callable[[], object]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    call()


if __name__ == "__main__":
    app()
