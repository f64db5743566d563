"""One row of a dataset or one problem of a task, in words: checked, not yet tokenized."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrl.errors import RecipeError, shown
from llmrl.recipe.schema import Source

Role = Literal["system", "user", "assistant"]

PLACE = "{prompt}"

ENDING = re.compile(r"\.(jsonl|json|csv|parquet)(\.gz)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The text that a prompt is made from."""

    id: str
    """Identifier ``source/row``; the row counts from 0 and includes those that ``skip`` leaves out."""
    prompt: str | tuple[Message, ...]
    """Plain text, or a conversation that ends with the user's turn."""
    answer: str | None
    """The gold answer as the dataset has it, or None."""
    response: str | None
    """A response to imitate, or None."""
    source: str
    """Name of the source in the recipe."""
    rejected: str | None = None
    """A worse response than ``response``, or None."""
    then: tuple[str, ...] = ()
    """Continuation of the conversation after ``response``: a reply, a response, and so on."""


def source_name(source: Source) -> str:
    """The source's name in ids and metrics: its own, or that of its task, file or hub dataset."""
    if source.name is not None:
        return source.name
    if source.dataset is None:
        return source.task or ""
    return ENDING.sub("", Path(source.dataset.partition(":")[0]).name)


def repeated_names(sources: Sequence[Source], *, key: str) -> Iterator[str]:
    """What is wrong with each source that has the name of an earlier one.

    Args:
        key: where the recipe has the sources, e.g. ``prompts.sources``.
    """
    names = [source_name(source) for source in sources]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (
                f"{key}.{index}.name: {key}.{names.index(name)} is called {shown(name)} too; "
                "give each a name of its own."
            )


def wrap(example: Example, template: str) -> Example:
    """The example with ``template`` around its prompt, or around the last turn of its conversation."""
    if isinstance(example.prompt, str):
        return dataclasses.replace(example, prompt=template.replace(PLACE, example.prompt))
    last = example.prompt[-1]
    turned = dataclasses.replace(last, content=template.replace(PLACE, last.content))
    return dataclasses.replace(example, prompt=(*example.prompt[:-1], turned))


def check_origin(source: Source, *, key: str) -> None:
    """Refuse a source that does not say what its rows are.

    Raises:
        RecipeError: it names neither a dataset nor a task, or both.
    """
    if (source.dataset is None) == (source.task is None):
        got = "neither" if source.task is None else "both"
        raise RecipeError(f"{key}: exactly one of dataset and task is needed, got {got}; add or remove one.")


def check_template(source: Source, *, key: str) -> None:
    """Refuse a template that does not say where the prompt goes.

    Raises:
        RecipeError: ``{prompt}`` is not in it, or more than once.
    """
    if source.template.count(PLACE) != 1:
        raise RecipeError(
            f"{key}.template: expected a text with {PLACE} in it once, got {shown(source.template)}."
        )
