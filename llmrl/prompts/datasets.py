"""Datasets: files, folders or hub names in a recipe's ``dataset = ...``, read as examples.

The one file that imports ``datasets``, and only for what needs it: parquet, saved folders and the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import cast

from llmrl.errors import DataError, RecipeError, did_you_mean, shown
from llmrl.prompts.example import Example, check_template, source_name, wrap
from llmrl.prompts.fields import answer_of, check_fields, has_prompt, prompt_of, response_of
from llmrl.prompts.files import TEXT_FORMATS, Record
from llmrl.prompts.preference import preference_of
from llmrl.prompts.reads import EVERYTHING, Reads
from llmrl.recipe.schema import Source

HUB_NAME = re.compile(r"(?P<path>[A-Za-z0-9][\w.-]*(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
"""Form of a hub name: ``name`` or ``owner/name``, and ``:config`` where the dataset has several."""

KNOWN_ENDINGS = (*TEXT_FORMATS, *(f"{ending}.gz" for ending in TEXT_FORMATS), ".parquet")


def read_source(source: Source, *, key: str, reads: Reads = EVERYTHING) -> list[Example]:
    """The rows of a dataset that the source takes, in the dataset's order.

    Args:
        key: the source's key in the recipe, such as ``prompts.sources.0``.
        reads: what the stage reads of a row.
    Raises:
        RecipeError: the source names no dataset, or its template or field map is wrong.
        DataError: the dataset cannot be read; the message names file, row and field.
    """
    if source.dataset is None:
        raise RecipeError(f"{key}.dataset is missing; name a file, a saved folder or a dataset of the hub.")
    check_template(source, key=key)
    check_fields(source.fields, key=key)
    name, examples, row = source_name(source), list[Example](), -1
    for row, record in enumerate(_records(source.dataset, source, key=key)):
        if row >= source.skip:
            example = _example(record, source, id=f"{name}/{row}", key=key, reads=reads)
            examples.append(wrap(example, source.template))
        if len(examples) == source.rows:
            break
    if not examples:
        raise DataError(_no_rows(source, count=row + 1, key=key))
    return examples


def _example(record: Record, source: Source, *, id: str, key: str, reads: Reads) -> Example:
    fields, name = source.fields, source_name(source)
    answer = _answer(record, fields, key=key, reads=reads)
    # A dialogue that is preferred may hold the prompt, too.
    paired = reads.response or not has_prompt(record, fields, key=key)
    pair = preference_of(record, fields, key=key) if paired else None
    if pair is not None:
        return Example(
            id=id,
            prompt=pair.prompt,
            answer=answer,
            response=pair.chosen,
            rejected=pair.rejected,
            source=name,
        )
    prompt = prompt_of(record, fields, key=key)
    response = response_of(record, fields, key=key) if reads.response else None
    return Example(id=id, prompt=prompt, answer=answer, response=response, source=name)


def _answer(record: Record, fields: Mapping[str, str], *, key: str, reads: Reads) -> str | None:
    try:
        return answer_of(record, fields, key=key)
    except DataError:
        if reads.answer or "answer" in fields:
            raise
        return None


def _no_rows(source: Source, *, count: int, key: str) -> str:
    if count == 0:
        return f"{key}.dataset: {shown(source.dataset)} has no rows; is it the right file?"
    return (
        f"{key}.skip leaves out {source.skip} rows, but {shown(source.dataset)} has only {count}; lower it."
    )


def _records(dataset: str, source: Source, *, key: str) -> Iterator[Record]:
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _saved(path, source, key=key)
    if path.exists():
        return _file(path, source, key=key)
    name = HUB_NAME.fullmatch(dataset)
    if name is None or dataset.endswith((*KNOWN_ENDINGS, ".gz")):
        raise DataError(
            f"{key}.dataset: no file or folder at {shown(dataset)}; "
            f"looked for {shown(str(path.absolute()), 200)}, since paths start where llmrl is started."
        )
    return _hub(name, source, key=key)


def _file(path: Path, source: Source, *, key: str) -> Iterator[Record]:
    ending = next((known for known in KNOWN_ENDINGS if path.name.endswith(known)), None)
    if ending is None:
        raise DataError(
            f"{key}.dataset: {shown(str(path))} has no known format; known are {', '.join(KNOWN_ENDINGS)}. "
            f"Pickled data and dataset scripts are never read."
        )
    if source.split != "train":
        raise DataError(
            f"{key}.split: {shown(str(path))} is one file, it has no split {shown(source.split)}; remove it."
        )
    return _parquet(path) if ending == ".parquet" else TEXT_FORMATS[ending.removesuffix(".gz")](path)


def _parquet(path: Path) -> Iterator[Record]:
    import datasets as hf  # noqa: PLC0415  heavy, and most recipes read JSONL

    # Streaming leaves no copy in the cache, and never takes a changed file for the old one.
    opened = partial(hf.load_dataset, "parquet", data_files=str(path), split="train", streaming=True)
    return _rows(opened, str(path), failure=f"{path}: the file cannot be read as parquet")


def _saved(path: Path, source: Source, *, key: str) -> Iterator[Record]:
    import datasets as hf  # noqa: PLC0415  heavy, and most recipes read JSONL

    if not any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        raise DataError(
            f"{key}.dataset: {shown(str(path))} is a folder, but not one that Dataset.save_to_disk wrote; "
            f"name a file inside it."
        )

    def opened() -> object:
        found = hf.load_from_disk(path)
        return found if isinstance(found, hf.Dataset) else found.get(source.split)

    if (path / "dataset_dict.json").exists():
        splits = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        if source.split not in splits:
            raise DataError(
                f"{key}.split: no split {shown(source.split)}.{did_you_mean(source.split, splits)}"
            )
    elif source.split != "train":
        raise DataError(f"{key}.split: {shown(str(path))} has one split only; remove the key.")
    return _rows(opened, str(path), failure=f"{path}: the saved dataset cannot be read")


def _hub(name: re.Match[str], source: Source, *, key: str) -> Iterator[Record]:
    import datasets as hf  # noqa: PLC0415  heavy, and most recipes read JSONL

    opened = partial(hf.load_dataset, name["path"], name["config"], split=source.split)
    failure = f"{key}.dataset: {shown(name.string)} is not a file here and cannot be loaded from the hub"
    return _rows(opened, f"{name.string}, split {source.split}", failure=failure)


def _rows(opened: Callable[[], object], place: str, *, failure: str) -> Iterator[Record]:
    """The rows of an object that ``datasets`` opens; its many kinds of failure become one error."""
    from datasets.exceptions import DatasetsError  # noqa: PLC0415  heavy

    try:
        rows = cast("Iterable[Mapping[str, object]]", opened())
        for number, fields in enumerate(rows, start=1):
            yield Record(place=f"{place}, row {number}", fields=fields)
    # pyarrow's own errors are ValueError, OSError, KeyError, TypeError and NotImplementedError.
    except (ValueError, OSError, KeyError, TypeError, NotImplementedError, DatasetsError) as error:
        raise DataError(f"{failure} ({type(error).__name__}: {shown(str(error), 200)}).") from error
    except RuntimeError as error:  # it has a script in place of rows
        raise DataError(
            f"{failure} ({shown(str(error), 200)}); find its rows as parquet or JSON, and name that file."
        ) from error
