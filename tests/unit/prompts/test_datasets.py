"""Datasets of every format become the same examples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets as hf
import pytest

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.datasets import read_source
from llmrl.prompts.example import Example, Message
from llmrl.prompts.reads import Reads
from llmrl.recipe.schema import Source
from llmrl.sandbox.task import UnitTests, read_task

ROWS = [
    {"question": "What is 1+1?", "answer": "2"},
    {"question": "What is 2+2?\nSay, please.", "answer": "4"},
    {"question": 'Quote "this", caf\u00e9', "answer": None},
]
EXAMPLES = [
    Example(
        id=f"rows/{number}", prompt=str(row["question"]), answer=row["answer"], response=None, source="rows"
    )
    for number, row in enumerate(ROWS)
]


def write_jsonl(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def write_jsonl_with_mark_and_crlf(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return path


def write_gzip(folder: Path) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    return path


def write_json(folder: Path) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    return path


def write_csv(folder: Path) -> Path:
    path = folder / "rows.csv"
    cells = [[str(row["question"]).replace('"', '""'), row["answer"] or ""] for row in ROWS]
    lines = ["question,answer", *(f'"{question}",{answer}' for question, answer in cells)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "rows.parquet"
    hf.Dataset.from_list(ROWS).to_parquet(path)
    return path


def write_saved(folder: Path) -> Path:
    hf.Dataset.from_list(ROWS).save_to_disk(folder / "rows")
    return folder / "rows"


@pytest.mark.parametrize(
    "write",
    [
        write_jsonl,
        write_jsonl_with_mark_and_crlf,
        write_gzip,
        write_json,
        write_csv,
        write_parquet,
        write_saved,
    ],
)
def test_every_format_has_the_same_examples(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)

    assert read_source(Source(dataset=str(path)), key="s") == EXAMPLES


def test_a_saved_folder_of_several_splits_gives_the_one_that_is_asked_for(tmp_path: Path) -> None:
    parts = {"train": hf.Dataset.from_list(ROWS[:1]), "test": hf.Dataset.from_list(ROWS[1:])}
    hf.DatasetDict(**parts).save_to_disk(tmp_path / "rows")

    train, test = (
        read_source(Source(dataset=str(tmp_path / "rows"), split=name), key="s") for name in ("train", "test")
    )

    assert [example.prompt for example in train] == ["What is 1+1?"]
    assert [example.answer for example in test] == ["4", None]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_saved])
def test_skip_and_rows_take_a_range_and_keep_the_ids_of_the_dataset(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)

    assert read_source(Source(dataset=str(path), skip=1, rows=1), key="s") == EXAMPLES[1:2]
    assert read_source(Source(dataset=str(path), skip=1), key="s") == EXAMPLES[1:]
    assert read_source(Source(dataset=str(path), rows=100), key="s") == EXAMPLES


def test_rows_after_the_last_one_taken_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\nbroken')

    assert [row.prompt for row in read_source(Source(dataset=str(path), rows=1), key="s")] == ["a"]


CHAT = {
    "prompt": [{"role": "user", "content": "1+1?"}],
    "completion": [{"role": "assistant", "content": "2"}],
    "answer": ["2", "two"],
}


def test_columns_that_nobody_reads_are_no_fault_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(CHAT | {"completion": 3}))

    (row,) = read_source(Source(dataset=str(path)), key="s", reads=Reads(answer=False, response=False))

    assert (row.answer, row.response) == (None, None)
    with pytest.raises(DataError, match=r"name another column with s\.fields\.answer"):
        read_source(Source(dataset=str(path)), key="s", reads=Reads(response=False))
    named = Source(dataset=str(path), fields={"answer": "answer"})
    with pytest.raises(DataError, match="an answer must be text or a number"):
        read_source(named, key="s", reads=Reads(answer=False, response=False))


def test_one_message_of_the_assistant_is_a_response(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(CHAT))

    (row,) = read_source(Source(dataset=str(path)), key="s", reads=Reads(answer=False))

    assert row.prompt == (Message(role="user", content="1+1?"),)
    assert row.response == "2"


def test_a_prompt_that_is_in_the_preferred_dialogue_is_read_where_no_response_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    talk = "\n\nHuman: 1+1?\n\nAssistant:"
    path.write_text(json.dumps({"chosen": f"{talk} 2", "rejected": f"{talk} 3"}))

    (row,) = read_source(Source(dataset=str(path)), key="s", reads=Reads(response=False))

    assert row.prompt == talk


def read_row(folder: Path, row: dict[str, object], **source: object) -> Example:
    """The example that one JSON row becomes."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return read_source(Source.model_validate({"dataset": str(path), **source}), key="s")[0]


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"problem": "p", "solution": "s", "completion": "c"}, {}, ("p", "s", "c")),
        ({"prompt": "p", "question": "q", "demonstration": "d"}, {}, ("p", None, "d")),
        ({"prompt": "p", "question": "q"}, {"prompt": "question"}, ("q", None, None)),
        (
            {"q": "p", "a": "x #### 3"},
            {"prompt": "q", "answer": "a", "response": "a"},
            ("p", "x #### 3", "x #### 3"),
        ),
        ({"prompt": "p", "answer": 3}, {}, ("p", "3", None)),
        ({"prompt": "p", "answer": 1.50}, {}, ("p", "1.5", None)),
        ({"prompt": "p", "answer": -0.0, "response": None}, {}, ("p", "-0.0", None)),
    ],
)
def test_columns_are_found_by_name_or_by_the_field_map(
    tmp_path: Path, row: dict[str, object], fields: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    example = read_row(tmp_path, row, fields=fields)

    assert (example.prompt, example.answer, example.response) == expected


def test_a_conversation_keeps_its_turns_and_the_template_goes_around_the_last(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", "name": "bot"},
        {"role": "user", "content": "1+1?"},
    ]

    example = read_row(tmp_path, {"messages": turns}, template="Q: {prompt} Use {braces}.")

    assert example.prompt == (
        Message(role="system", content=""),
        Message(role="user", content="hi"),
        Message(role="assistant", content="hello"),
        Message(role="user", content="Q: 1+1? Use {braces}."),
    )
    assert read_row(tmp_path, {"chat": turns}, fields={"messages": "chat"}).prompt[-1] == turns_last(turns)


def turns_last(turns: list[dict[str, str]]) -> Message:
    return Message(role="user", content=turns[-1]["content"])


def test_a_template_goes_around_text_whatever_braces_it_has(tmp_path: Path) -> None:
    example = read_row(tmp_path, {"prompt": "{x}"}, template="Answer in \\boxed{}: {prompt}\n")

    assert example.prompt == "Answer in \\boxed{}: {x}\n"


def test_a_source_can_have_a_name_of_its_own(tmp_path: Path) -> None:
    assert read_row(tmp_path, {"prompt": "p"}, name="mine").id == "mine/0"


def test_gsm8k_works_as_it_is(shared: Path) -> None:
    folder = shared / "data" / "gsm8k"

    train, test = (
        read_source(Source(dataset=str(folder / f"{part}.jsonl")), key="s") for part in ("train", "test")
    )

    assert (len(train), len(test)) == (7473, 1319)
    assert str(train[0].prompt).startswith("Natalia sold clips to 48 of her friends")
    assert str(train[0].answer).endswith("#### 72")
    assert all(example.answer and "#### " in example.answer for example in [*train, *test])
    assert test[1318].id == "test/1318"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            {"dataset": "rows.jsonl", "template": "Q: {question}"},
            "s.template: expected a text with {prompt} in it once, got 'Q: {question}'.",
        ),
        (
            {"dataset": "rows.jsonl", "template": "{prompt} {prompt}"},
            "s.template: expected a text with {prompt} in it once, got '{prompt} {prompt}'.",
        ),
        (
            {"dataset": "rows.jsonl", "fields": {"promt": "q"}},
            "s.fields: no field named 'promt'. Did you mean 'prompt'? Known: answer, messages, "
            "prompt, rejected, response.",
        ),
        (
            {"dataset": "rows.jsonl", "fields": {"prompt": "q", "messages": "m"}},
            "s.fields: prompt and messages are both given, but a row has one prompt; remove one.",
        ),
        ({"task": "chain"}, "s.dataset is missing; name a file, a saved folder or a dataset of the hub."),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(source: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_source(Source.model_validate(source), key="s")

    assert str(refused.value) == sentence


def test_the_whole_row_may_be_the_answer(tmp_path: Path) -> None:
    row = {"text": "Add two numbers.", "test_list": ["assert add(1, 2) == 3"], "task_id": 7}
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps(row))

    (example,) = read_source(Source(dataset=str(path), fields={"prompt": "text", "answer": "*"}), key="s")

    assert example.prompt == "Add two numbers."
    assert json.loads(example.answer or "") == row
    task = read_task(example.answer or "")
    assert isinstance(task, UnitTests)
    assert task.exam.tests == row["test_list"]


def test_a_row_that_json_cannot_write_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Add.", "tests": NaN}')

    with pytest.raises(DataError) as refused:
        read_source(Source(dataset=str(path), fields={"answer": "*"}), key="s")

    assert str(refused.value).startswith(f"{path}, line 1: the row is not a JSON object (Out of range float")
    assert str(refused.value).endswith("leave the column out, or map one column to the answer.")


def test_every_row_of_humaneval_is_read_as_its_tests(shared: Path) -> None:
    path = shared / "data" / "humaneval" / "HumanEval.jsonl.gz"

    rows = read_source(Source(dataset=str(path), fields={"answer": "*"}), key="s")

    tasks = [read_task(row.answer or "") for row in rows]
    assert len(tasks) == 164
    assert all(
        isinstance(task, UnitTests) and task.prompt == row.prompt
        for task, row in zip(tasks, rows, strict=True)
    )
    assert all(task.solution for task in tasks)
