"""The model card of an exported model: its base, its recipe, and its results."""

from __future__ import annotations

import json
from pathlib import Path

from llmrl import __version__
from llmrl.recipe.schema import Recipe, Stage
from llmrl.report.journal import EvaluationEntry

FILE = "README.md"


def has_card(folder: Path) -> bool:
    """Whether the model in this folder is complete: its card is written last."""
    return (folder / FILE).exists()


def remove_card(folder: Path) -> None:
    """Remove the card of a model that is about to be replaced, as it is incomplete until that is done."""
    (folder / FILE).unlink(missing_ok=True)


def write_card(
    folder: Path,
    recipe: Recipe,
    stage: Stage,
    before: EvaluationEntry | None,
    after: EvaluationEntry | None,
    *,
    steps: int,
) -> Path:
    """Write ``README.md`` into the folder of a model after ``steps``, in the form that model hubs read."""
    path = folder / FILE
    tables = json.dumps(stage.model_dump(mode="json", exclude_defaults=True), indent=1)
    whole = stage.optimizer.steps
    taken = f"{whole}" if steps == whole else f"{steps} of {whole}"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [llmrl, reinforcement-learning]",
        "---",
        f"# {recipe.run.name}, stage {stage.name}",
        "",
        f"Trained with llmrl {__version__}: objective `{stage.objective.name}`, "
        f"{taken} optimizer steps, seed {recipe.run.seed}, dtype {stage.model.dtype}.",
        "",
        *_results(before, after),
        "## Recipe",
        "",
        "What differs from llmrl's defaults:",
        "",
        "```json",
        tables,
        "```",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _results(before: EvaluationEntry | None, after: EvaluationEntry | None) -> list[str]:
    entries = [entry for entry in (before, after) if entry]
    if not entries:
        return []
    cells = [
        (
            *(e.name, e.version, e.n, e.unjudged),
            *(f"{e.accuracy:.3f}", f"{e.low:.3f}-{e.high:.3f}", f"{e.tokens_mean:.1f}"),
        )
        for e in entries
    ]
    rows = [f"| {' | '.join(map(str, row))} |" for row in cells]
    head = "| prompts | weight version | judged responses | others | accuracy | 95 % interval | mean tokens |"
    return ["## Results", "", head, "|---|---|---|---|---|---|---|", *rows, ""]
