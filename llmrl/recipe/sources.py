"""The sources of a recipe: whether each can be read, and whether held-out rows are kept from training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from llmrl.errors import RecipeError, shown
from llmrl.prompts.datasets import HUB_NAME, KNOWN_ENDINGS
from llmrl.prompts.example import check_origin, check_template, repeated_names
from llmrl.prompts.fields import check_fields
from llmrl.prompts.tasks import task
from llmrl.recipe.schema import Source, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one dataset or task that a source takes."""

    key: str
    """Key of the source in the recipe."""
    origin: tuple[object, ...]
    """Identity of the dataset or task; equal for two sources that read the same."""
    text: str
    start: int
    stop: float
    """Index after the last row; infinite if the source goes to the end."""

    def overlaps(self, other: Rows) -> bool:
        """Whether both take some row."""
        return self.origin == other.origin and max(self.start, other.start) < min(self.stop, other.stop)

    def __str__(self) -> str:
        end = "the end" if self.stop == float("inf") else f"{self.stop - 1:.0f}"
        return f"rows {self.start} to {end} of {self.text}"


def is_local(name: str) -> bool:
    """Whether a dataset or model is a path rather than a hub name."""
    return name.startswith(("/", ".", "~")) or name.endswith((*KNOWN_ENDINGS, ".gz")) or Path(name).exists()


def missing_path(name: str, what: str) -> str:
    """The error about a path at which nothing exists."""
    absolute = shown(str(Path(name).expanduser().absolute()), 300)
    return (
        f"there is no {what} at {shown(name)}; looked for {absolute}, "
        "since paths start where llmrl is started."
    )


def source_problems(stage: Stage, *, alphabet: str | None) -> Iterator[str]:
    """Problems with the sources of a stage.

    Args:
        alphabet: every character that the model's tokenizer knows; None if it knows all.
    """
    tables = {"prompts.sources": stage.prompts.sources, "evaluation.sources": stage.evaluation.sources}
    for table, sources in tables.items():
        yield from repeated_names(sources, key=table)
        for index, source in enumerate(sources):
            yield from _problems(source, f"{table}.{index}", alphabet)


def _problems(source: Source, key: str, alphabet: str | None) -> Iterator[str]:
    try:
        check_origin(source, key=key)
        check_template(source, key=key)
    except RecipeError as error:
        yield str(error)
        return
    yield from _rate_problems(source, key)
    if source.dataset is not None:
        yield from _dataset_problems(source, source.dataset, key)
    elif source.task is not None:
        yield from _task_problems(source, source.task, key, alphabet)


def _dataset_problems(source: Source, dataset: str, key: str) -> Iterator[str]:
    if source.options:
        yield f"{key}.options: only a task has options, and this source is a dataset; remove them."
    try:
        check_fields(source.fields, key=key)
    except RecipeError as error:
        yield str(error)
    if is_local(dataset):
        if not Path(dataset).expanduser().exists():
            yield f"{key}.dataset: {missing_path(dataset, 'file or folder')}"
    elif not HUB_NAME.fullmatch(dataset):
        yield f"{key}.dataset: {shown(dataset)} is neither a file here nor a hub name such as 'owner/name'."


def _rate_problems(source: Source, key: str) -> Iterator[str]:
    if source.pass_rates is None:
        said = {
            "min_pass_rate": source.min_pass_rate > 0,
            "max_pass_rate": source.max_pass_rate < 1,
            "unrated": source.unrated != "keep",
            "order": source.order != "shuffled",
        }
        for name in (name for name, is_said in said.items() if is_said):
            yield f"{key}.{name}: has no effect without {key}.pass_rates; add it, or remove the key."
        return
    if source.task is not None:
        yield (
            f"{key}.pass_rates: only the rows of a dataset are the same in every run, and this source is a "
            "task; remove it."
        )
    elif not source.pass_rates.expanduser().is_file():
        yield f"{key}.pass_rates: {missing_path(str(source.pass_rates), 'file')}"
    if source.min_pass_rate > source.max_pass_rate:
        yield (
            f"{key}.min_pass_rate: {source.min_pass_rate:g} exceeds {key}.max_pass_rate = "
            f"{source.max_pass_rate:g}; lower it."
        )


def _task_problems(source: Source, name: str, key: str, alphabet: str | None) -> Iterator[str]:
    if source.fields:
        yield f"{key}.fields: only a dataset has columns, and this source is a task; remove it."
    if source.rows is None:
        yield f"{key}.rows: this key is missing; a task makes as many rows as it is told."
    try:
        made = task.build(name, source.options, key=key)
    except RecipeError as error:
        yield str(error)
        return
    if source.rows is not None and source.skip + source.rows > made.size:
        yield (
            f"{key}.rows: skip + rows = {source.skip + source.rows} exceed the {made.size} distinct problems "
            f"of task '{name}'; lower them, or make its options wider."
        )
    written = {*made.characters, *source.template.replace("{prompt}", "")}
    unknown = "".join(sorted(written - set(alphabet))) if alphabet is not None else ""
    if unknown:
        yield f"model.characters: {shown(unknown)} is missing, which task '{name}' of {key} writes."


def held_out_problems(stage: Stage, trained: Mapping[str, Stage]) -> Iterator[str]:
    """Report held-out rows that this stage, or one before it, trains on.

    Args:
        trained: the stages so far, this one included, by the suffix for the name of a key.
    """
    held_out = _rows(stage.evaluation.sources, "evaluation.sources")
    seen = [
        rows
        for suffix, earlier in trained.items()
        for rows in _rows(earlier.prompts.sources, "prompts.sources", suffix)
    ]
    for mine, theirs in product(held_out, seen):
        if mine.overlaps(theirs):
            yield (
                f"{mine.key}: {mine} are held out, but {theirs.key} trains on {theirs}; "
                "set skip and rows apart."
            )


def _rows(sources: Sequence[Source], table: str, suffix: str = "") -> list[Rows]:
    return [
        Rows(
            key=f"{table}.{index}{suffix}",
            origin=_origin(source),
            text=f"task '{source.task}'" if source.task else shown(source.dataset),
            start=source.skip,
            stop=source.skip + source.rows if source.rows else float("inf"),
        )
        for index, source in enumerate(sources)
    ]


def _origin(source: Source) -> tuple[object, ...]:
    if source.dataset is None:
        return _task_origin(source)
    path = Path(source.dataset).expanduser()
    return (str(path.resolve()) if path.exists() else source.dataset, source.split)


def _task_origin(source: Source) -> tuple[object, ...]:
    """Identity of a task's rows: tasks of one size have one order, so equal starts have equal rows."""
    try:
        made = task.build(str(source.task), source.options, key="")
    except RecipeError:  # reported by `source_problems`
        return ("unknown", source.task)
    return (made.size, made.make(0).prompt)
