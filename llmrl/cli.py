"""The command line: ``llmrl train | show | plan | check | ...``. A wrong recipe waits for no heavy import."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from llmrl import __version__
from llmrl.doctor import diagnose, report_findings
from llmrl.errors import (
    DataError,
    Interrupted,
    LlmrlError,
    ModelError,
    PlacementError,
    PluginError,
    RecipeError,
    Stopped,
)
from llmrl.plan.calibration import FILE as CALIBRATION
from llmrl.plan.calibration import check_place
from llmrl.plan.plan import CV, Assumptions, make_plan
from llmrl.plan.show import plan_json, show_plan
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import Loaded, load_recipe
from llmrl.recipe.reference import render_reference
from llmrl.recipe.show import show, show_difference, show_json

if TYPE_CHECKING:
    from llmrl.check import Line

WRONG_INPUT = (RecipeError, DataError, ModelError, PluginError, PlacementError)
"""Errors that the user can correct; all others are the run's."""

EXIT_WRONG_INPUT = 2
EXIT_FAILED = 70
EXIT_INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk."""

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (TOML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, such as optimizer.lr=1e-4.", show_default=False),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="MODULE", help="Module to import first.")
]

app = typer.Typer(
    name="llmrl",
    help="Post-train language models with reinforcement learning, on a laptop or on many nodes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


check = typer.Typer(
    name="check", help="Check objectives and test vectors.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(check)


def main() -> None:
    """Entry point of the ``llmrl`` command."""
    # As with ``python -m``: plugins may lie in the folder where the command is given.
    sys.path.insert(0, str(Path.cwd()))
    app()


def _harmless(text: str) -> str:
    """Escape a text that may quote a model or its programs, so that it cannot steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


@contextmanager
def _clean_errors(*, debug: bool) -> Generator[None]:
    """Print an error of ours as its message; the exit status says whose fault it is."""
    try:
        yield
    except Stopped as stopped:
        typer.echo(str(stopped))
        if isinstance(stopped, Interrupted):  # otherwise a script would go on with its next command
            raise typer.Exit(EXIT_INTERRUPTED) from None
    except LlmrlError as error:  # before OSError, which a DeadlineError is as well
        if debug:
            traceback.print_exc()
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == LlmrlError.__module__)
        typer.echo(f"{kind.__name__}: {_harmless(str(error))}", err=True)
        raise typer.Exit(EXIT_WRONG_INPUT if isinstance(error, WRONG_INPUT) else EXIT_FAILED) from None
    except OSError as error:
        if debug or error.errno not in FULL:
            raise
        typer.echo(f"OSError: {error}; make room; a run goes on with --resume.", err=True)
        raise typer.Exit(EXIT_FAILED) from error


def _version(value: bool) -> None:
    if value:
        typer.echo(f"llmrl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run folder and begin again.")] = False,
    debug: Debug = False,
) -> None:
    """Train what a recipe describes."""
    with _clean_errors(debug=debug):
        if resume and fresh:
            raise RecipeError("--resume and --fresh contradict each other; give one of them.")
        loaded = _checked(recipe, overrides)
        from llmrl.run.start import train_recipe  # noqa: PLC0415  imports Ray and transformers

        train_recipe(loaded, existing="resume" if resume else "fresh" if fresh else "refuse")


@app.command("show")
def show_command(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", show_default=False)] = None,
    overrides: Overrides = None,
    *,
    diff: Annotated[Path | None, typer.Option(help="Another recipe; print only what differs.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print every key of a recipe.")] = False,
    debug: Debug = False,
) -> None:
    """Show a resolved recipe: where each value is from, and what the numbers amount to."""
    with _clean_errors(debug=debug):
        if reference + json + (diff is not None) > 1:
            raise RecipeError("--reference, --json and --diff contradict each other; give one of them.")
        if reference:
            typer.echo(render_reference(), nl=False)
            return
        if recipe is None:
            raise RecipeError("show needs a recipe file, or --reference.")
        loaded = _checked(recipe, overrides)
        if json:
            typer.echo(show_json(loaded))
        elif diff is not None:
            Console().print(show_difference(loaded, _checked(diff, None)))
        else:
            Console().print(show(loaded))


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    gpus: Annotated[str | None, typer.Option(help="Devices of each node, such as 8xH100.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="How many such nodes.")] = 1,
    mean: Annotated[float | None, typer.Option(help="Tokens of a response on average.")] = None,
    cv: Annotated[float, typer.Option(help="Spread of these: standard deviation over mean.")] = CV,
    lengths: Annotated[Path | None, typer.Option(help="File of measured lengths instead.")] = None,
    mean_prompt: Annotated[float | None, typer.Option(help="Tokens of a prompt on average.")] = None,
    config: Annotated[Path | None, typer.Option(help="The model's config.json, if it is not here.")] = None,
    dollars: Annotated[float | None, typer.Option(help="Price of a device for an hour.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="What --measure has written.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine first.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each number is what it is.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Compute memory, time, lag and cost before anything starts, and refuse what cannot fit."""
    with _clean_errors(debug=debug):
        loaded = _checked(recipe, overrides)
        assumptions = Assumptions(
            gpus=gpus,
            nodes=nodes,
            mean=mean,
            cv=cv,
            lengths=lengths,
            mean_prompt=mean_prompt,
            config=config,
            calibration=calibration,
        )
        if measure:
            check_place(calibration or CALIBRATION)
            from llmrl.plan.measure import calibrate  # noqa: PLC0415  imports Ray and torch

            calibrate(loaded.recipe, assumptions).write(calibration or CALIBRATION)
        plans = make_plan(loaded.recipe, assumptions)
        if json:
            typer.echo(plan_json(plans, dollars))
        else:
            Console().print(show_plan(plans, explain=explain, dollars_per_hour=dollars))


@check.command("objective")
def check_objective(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Options, such as clip_high=0.28.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Check every objective.")] = False,
    plugin: Plugins = None,
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", metavar="CHECK", help="Leave out a check by name.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Prove an objective, built-in or your own, on gradients, masking, splits and extremes."""
    with _clean_errors(debug=debug):
        from llmrl.check import check_all, check_named  # noqa: PLC0415  imports torch

        if every == (name is not None):
            raise RecipeError("check objective needs the name of an objective, or --all.")
        if name is None:
            _print(check_all(plugins=plugin or [], leave_out=leave_out or []))
        else:
            _print(check_named(name, options or [], plugins=plugin or [], leave_out=leave_out or []))


@check.command("vectors")
def check_vectors(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)], *, debug: Debug = False
) -> None:
    """Compare the code that trains with every JSON test vector of a folder."""
    with _clean_errors(debug=debug):
        from llmrl import check  # noqa: PLC0415  imports torch

        _print(check.check_vectors(folder))


@app.command()
def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run.", show_default=False)
    ],
    *,
    debug: Debug = False,
) -> None:
    """Write report.html again from what a run has written down."""
    with _clean_errors(debug=debug):
        from llmrl.report.html import write_report  # noqa: PLC0415  only this command needs it

        typer.echo(f"report: {write_report(run_folder)}")


@app.command()
def export(
    where: Annotated[
        Path,
        typer.Argument(
            metavar="WHERE", help="Folder of a run, of a stage or of a checkpoint.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the model.", show_default=False)],
    *,
    debug: Debug = False,
) -> None:
    """Write the model of a checkpoint, of the newest one by default, also while the run goes on."""
    with _clean_errors(debug=debug):
        from llmrl.run.export import export_model  # noqa: PLC0415  imports Ray and transformers

        sealed = export_model(where, out)
        typer.echo(f"model: {out}, of stage {sealed.stage.name} after step {sealed.step}")


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="Where runs are to be written.")] = Path("runs"),
) -> None:
    """Look at this machine: versions, devices, memory, disk, and what to do about each."""
    findings = diagnose(folder)
    Console().print(report_findings(findings))
    raise typer.Exit(1 if any(finding.status == "wrong" for finding in findings) else 0)


def _print(lines: Iterable[Line]) -> None:
    """Print each line as soon as it is there; exit with status 1 if any reports a fault."""
    good = True
    for line in lines:
        typer.echo(line.text)
        good = good and line.good
    if not good:
        raise typer.Exit(1)


def _checked(path: Path, overrides: list[str] | None) -> Loaded:
    loaded = load_recipe(path, overrides or [])
    check_recipe(loaded)
    return loaded


if __name__ == "__main__":
    main()
