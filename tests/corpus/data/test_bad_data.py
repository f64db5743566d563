"""Bad data: one case per way to be wrong, and the whole sentence that the user reads.

``{path}`` in a sentence is the file of the case. Bytes are written as they stand, so that a case can be
anything that a disk may hold.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets as hf
import pytest

from llmrl.errors import DataError, shown
from llmrl.prompts.datasets import read_source
from llmrl.prompts.files import MAX_LINE_BYTES
from llmrl.recipe.schema import Source

GOOD = b'{"prompt": "1+1?", "answer": "2"}\n'
NO_ROWS = "s.dataset: '{path}' has no rows; is it the right file?"
JSON_OBJECT = "Each line must be one JSON object."


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file, what the recipe says besides its name, and the sentence."""

    name: str
    content: bytes
    sentence: str
    file: str = "d.jsonl"
    source: Mapping[str, object] = field(default_factory=dict)


def row(**values: object) -> bytes:
    """A good row, then one with these values."""
    return GOOD + json.dumps(values).encode() + b"\n"


TEXT = [
    Case(name="empty file", content=b"", sentence=NO_ROWS),
    Case(
        name="blank lines only",
        content=b"\n \n",
        sentence=NO_ROWS,
    ),
    Case(
        name="nothing after skip",
        content=GOOD * 3,
        source={"skip": 3, "rows": 2},
        sentence="s.skip leaves out 3 rows, but '{path}' has only 3; lower it.",
    ),
    Case(
        name="broken line",
        content=GOOD + b'{"prompt": "a" "answer": "b"}\n',
        sentence=f"{{path}}, line 2, column 16: not valid JSON (Expecting ',' delimiter). {JSON_OBJECT}",
    ),
    Case(
        name="line cut off",
        content=GOOD + GOOD[:20],
        sentence=f"{{path}}, line 2, column 20: not valid JSON (Unterminated string starting at). "
        f"{JSON_OBJECT}",
    ),
    Case(
        name="an array in jsonl",
        content=b'[{"prompt": "a"}]\n',
        sentence='{path}, line 1: the row must be a JSON object, got an array; write {{"prompt": ...}}.',
    ),
    Case(
        name="text in jsonl",
        content=b'"a"\n',
        sentence='{path}, line 1: the row must be a JSON object, got text; write {{"prompt": ...}}.',
    ),
    Case(
        name="duplicate key",
        content=GOOD + b'{"prompt": "a", "prompt": "b"}\n',
        sentence=f"{{path}}, line 2: not valid JSON (the key 'prompt' occurs more than once in an "
        f"object). {JSON_OBJECT}",
    ),
    Case(
        name="number too long",
        content=b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}\n",
        sentence="{path}, line 1: not valid JSON (Exceeds the limit (4300 digits) for integer string "
        "conversion: "
        f"value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit). {JSON_OBJECT}",
    ),
    Case(
        name="invalid UTF-8",
        content=GOOD + b'{"prompt": "caf\xe9"}\n',
        sentence="{path}, line 2: invalid UTF-8 at byte offset 49 (0xe9); save the file as UTF-8.",
    ),
    Case(
        name="UTF-16 with a mark",
        content=GOOD.decode().encode("utf-16"),
        sentence="{path}: the file is UTF-16 or UTF-32 text; save it as UTF-8.",
    ),
    Case(
        name="UTF-16 without a mark",
        content=GOOD.decode().encode("utf-16-le"),
        sentence="{path}, line 1: NUL byte at byte offset 1; remove it, or save the file as UTF-8.",
    ),
    Case(
        name="NUL byte",
        content=GOOD + b'{"prompt": "a\0b"}\n',
        sentence="{path}, line 2: NUL byte at byte offset 47; remove it, or save the file as UTF-8.",
    ),
    Case(
        name="a line that is no row",
        content=b" " * (MAX_LINE_BYTES + 1),
        sentence="{path}, line 1: the line is longer than 64 MiB; split it into rows.",
    ),
    Case(
        name="gzip cut off",
        file="d.jsonl.gz",
        content=gzip.compress(GOOD, mtime=0)[:-8],
        sentence="{path}: the gzip file is damaged or cut off after line 1 "
        "(Compressed file ended before the end-of-stream marker was reached); copy it again.",
    ),
    Case(
        name="not gzip",
        file="d.jsonl.gz",
        content=GOOD,
        sentence="{path}: the gzip file is damaged or cut off after line 0 (Not a gzipped file (b'{{\"')); "
        "copy it again.",
    ),
    Case(
        name="json that is an object",
        file="d.json",
        content=b'{"rows": []}',
        sentence="{path}: the file must hold one array of objects, got an object; "
        "a file with one object per line ends in .jsonl.",
    ),
    Case(
        name="json broken on its third line",
        file="d.json",
        content=b'[\n{"prompt": "a"}\n{"prompt": "b"}]',
        sentence="{path}, line 3, column 1: not valid JSON (Expecting ',' delimiter). "
        "The file must hold one array of objects.",
    ),
    Case(
        name="json with a row that is null",
        file="d.json",
        content=b'[{"prompt": "a"}, null]',
        sentence='{path}, row 2: the row must be a JSON object, got null; write {{"prompt": ...}}.',
    ),
    Case(
        name="json with lines",
        file="d.json",
        content=GOOD * 2,
        sentence="{path}, line 2, column 1: not valid JSON (Extra data). The file must hold one "
        "array of objects.",
    ),
    Case(
        name="csv with a cell too many",
        file="d.csv",
        content=b"prompt,answer\na,1\nb,2,3\n",
        sentence="{path}, line 3: the row has 3 cells and the header 2; "
        "put cells that contain commas or line breaks in double quotes.",
    ),
    Case(
        name="csv with a column twice",
        file="d.csv",
        content=b"prompt,prompt\na,1\n",
        sentence="{path}, line 1: column 'prompt' occurs more than once; rename one of them.",
    ),
    Case(
        name="csv with an open quote",
        file="d.csv",
        content=b'prompt,answer\n"a,1\n',
        sentence="{path}, line 2: not valid CSV (unexpected end of data); correct or remove the row.",
    ),
    Case(
        name="csv with an empty prompt",
        file="d.csv",
        content=b"prompt,answer\n,1\n",
        sentence="{path}, line 2, field 'prompt': must be text, got null; correct or remove the row.",
    ),
    Case(
        name="csv with its header only",
        file="d.csv",
        content=b"prompt,answer\n",
        sentence=NO_ROWS,
    ),
]

COLUMNS = [
    Case(
        name="missing column",
        content=b'{"text": "a", "label": "b"}\n',
        sentence="{path}, line 1: no column for the prompt (prompt, question, messages, problem), "
        "only label, text. "
        'Set s.fields = {{ prompt = "..." }}.',
    ),
    Case(
        name="renamed column",
        content=b'{"Question": "a", "label": "b"}\n',
        sentence="{path}, line 1: no column for the prompt (prompt, question, messages, problem), "
        'only Question, label. Set s.fields = {{ prompt = "Question" }}.',
    ),
    Case(
        name="column gone in a later row",
        content=row(answer="2"),
        sentence="{path}, line 2: no column for the prompt (prompt, question, messages, problem), "
        "only answer. "
        'Set s.fields = {{ prompt = "..." }}.',
    ),
    Case(
        name="mapped column missing",
        content=b'{"query": "a", "gold": "b"}\n',
        source={"fields": {"prompt": "qurey"}},
        sentence="{path}, line 1: no column named 'qurey', which s.fields.prompt names. "
        "Did you mean 'query'? Known: gold, query.",
    ),
    Case(
        name="mapped answer missing",
        content=GOOD,
        source={"fields": {"answer": "gold"}},
        sentence="{path}, line 1: no column named 'gold', which s.fields.answer names. Known: "
        "answer, prompt.",
    ),
]

VALUE = "{path}, line 2, field 'prompt': "
VALUES = [
    Case(
        name="null prompt",
        content=row(prompt=None),
        sentence=f"{VALUE}must be text, got null; correct or remove the row.",
    ),
    Case(
        name="empty prompt",
        content=row(prompt=""),
        sentence=f"{VALUE}must have text in it, but is empty; correct or remove the row.",
    ),
    Case(
        name="blank prompt",
        content=row(prompt=" \n\u3000"),
        sentence=f"{VALUE}must have text in it, but is only white space; correct or remove the row.",
    ),
    Case(
        name="prompt that is a number",
        content=row(prompt=12),
        sentence=f"{VALUE}must be text, got int 12; correct or remove the row.",
    ),
    Case(
        name="prompt that is an object",
        content=row(prompt={"text": "a"}),
        sentence=f"{VALUE}must be text, got dict {{{{'text': 'a'}}}}; correct or remove the row.",
    ),
    Case(
        name="lone surrogate",
        content=GOOD + b'{"prompt": "ab\\ud800c"}\n',
        sentence=f"{VALUE}lone surrogate \\ud800 at character 2, which no tokenizer can encode; remove it.",
    ),
    Case(
        name="escaped NUL",
        content=row(prompt="a\0b"),
        sentence=f"{VALUE}NUL character at character 1, which no tokenizer can encode; remove it.",
    ),
    Case(
        name="NaN answer",
        content=row(prompt="a", answer=float("nan")),
        sentence="{path}, line 2, field 'answer': an answer must be text or a finite number, got nan; "
        "correct or remove the row.",
    ),
    Case(
        name="infinite answer",
        content=row(prompt="a", answer=float("inf")),
        sentence="{path}, line 2, field 'answer': an answer must be text or a finite number, got inf; "
        "correct or remove the row.",
    ),
    Case(
        name="answer that is a list",
        content=row(prompt="a", answer=["2"]),
        sentence="{path}, line 2, field 'answer': an answer must be text or a number, got ['2']; "
        "write it as text, or name another column with s.fields.answer.",
    ),
    Case(
        name="answer that is true",
        content=row(prompt="a", answer=True),
        sentence="{path}, line 2, field 'answer': an answer must be text or a number, got True; "
        "write it as text, or name another column with s.fields.answer.",
    ),
    Case(
        name="empty answer",
        content=row(prompt="a", answer=""),
        sentence="{path}, line 2, field 'answer': must have text in it, but is empty; correct or "
        "remove the row.",
    ),
    Case(
        name="response that is a number",
        content=row(prompt="a", response=3),
        sentence="{path}, line 2, field 'response': a response must be text or a list of one message from "
        "'assistant', got 3; correct the row, or name another column with s.fields.response.",
    ),
]


def chat(*turns: object) -> bytes:
    """A good row, then a conversation."""
    return row(messages=list(turns))


USER = {"role": "user", "content": "hi"}
CHAT = "{path}, line 2, field 'messages'"
CONVERSATIONS = [
    Case(
        name="no messages",
        content=chat(),
        sentence=f"{CHAT}: the conversation is empty; it must end with a message from 'user'.",
    ),
    Case(
        name="unknown role",
        content=chat({"role": "users", "content": "hi"}),
        sentence=f"{CHAT}, message 1: no role 'users'. Did you mean 'user'? Known: assistant, system, user.",
    ),
    Case(
        name="role that is null",
        content=chat(USER, {"role": None, "content": "hi"}),
        sentence=f"{CHAT}, message 2: no role None. Known: assistant, system, user.",
    ),
    Case(
        name="last message from the assistant",
        content=chat(USER, {"role": "assistant", "content": "hello"}),
        sentence=f"{CHAT}: the last message must be from 'user', got 'assistant'; "
        "move the last turn to a column 'response'.",
    ),
    Case(
        name="whole dialogue beside its question",
        content=json.dumps(
            {"problem": "1+1?", "messages": [USER, {"role": "assistant", "content": "2"}]}
        ).encode(),
        sentence="{path}, line 1, field 'messages': the last message must be from 'user', got 'assistant'; "
        "set s.fields = {{ prompt = \"problem\" }}, or move the last turn to a column 'response'.",
    ),
    Case(
        name="system in the middle",
        content=chat(USER, {"role": "system", "content": "obey"}, USER),
        sentence=f"{CHAT}, message 2: only the first message may be from 'system'; move or remove it.",
    ),
    Case(
        name="message without content",
        content=chat({"role": "user", "text": "hi"}),
        sentence=f"{CHAT}, message 1: has no 'content', only role, text; add it.",
    ),
    Case(
        name="message that is text",
        content=chat("hi"),
        sentence=f"{CHAT}, message 1: must be an object with role and content, got 'hi'.",
    ),
    Case(
        name="message with blank content",
        content=chat({"role": "user", "content": " "}),
        sentence=f"{CHAT}, message 1, content: must have text in it, but is only white space; "
        "correct or remove the row.",
    ),
    Case(
        name="message with content in parts",
        content=chat({"role": "user", "content": [{"type": "text"}]}),
        sentence=f"{CHAT}, message 1, content: must be text, got list [{{{{'type': 'text'}}}}]; "
        "correct or remove the row.",
    ),
]

UNKNOWN_FORMAT = (
    "s.dataset: '{path}' has no known format; "
    "known are .jsonl, .json, .csv, .jsonl.gz, .json.gz, .csv.gz, .parquet. "
    "Pickled data and dataset scripts are never read."
)
FILES = [
    Case(
        name="unknown format",
        file="d.tsv",
        content=GOOD,
        sentence=UNKNOWN_FORMAT,
    ),
    Case(
        name="pickled data",
        file="d.pkl",
        content=pickle.dumps([{"prompt": "a"}]),
        sentence=UNKNOWN_FORMAT,
    ),
    Case(
        name="dataset script",
        file="d.py",
        content=b"raise SystemExit",
        sentence=UNKNOWN_FORMAT,
    ),
    Case(
        name="split of a file",
        content=GOOD,
        source={"split": "test"},
        sentence="s.split: '{path}' is one file, it has no split 'test'; remove it.",
    ),
]

CASES = [*TEXT, *COLUMNS, *VALUES, *CONVERSATIONS, *FILES]


def sentence_of(source: Source) -> str:
    with pytest.raises(DataError) as refused:
        read_source(source, key="s")
    return str(refused.value)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_data_is_named_in_one_sentence(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(case.file).write_bytes(case.content)

    said = sentence_of(Source.model_validate({"dataset": case.file, **case.source}))

    assert said == case.sentence.format(path=case.file)


def test_deep_nesting_is_refused_and_does_not_crash(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"prompt": ' + b"[" * 200_000 + b"\n")

    assert sentence_of(Source(dataset=str(path))).startswith(
        f"{path}, line 1: not valid JSON (maximum recursion depth"
    )


@pytest.mark.parametrize("name", ["no/such/d.jsonl", "./d", "d.parquet", "d.txt.gz", "/nowhere"])
def test_a_missing_file_says_where_it_was_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert (
        sentence_of(Source(dataset=name))
        == f"s.dataset: no file or folder at '{name}'; looked for '{(tmp_path / name).absolute()}', "
        "since paths start where llmrl is started."
    )


def test_a_hub_name_that_cannot_be_loaded_is_named() -> None:
    assert sentence_of(Source(dataset="nobody/nothing:main")) == (
        "s.dataset: 'nobody/nothing:main' is not a file here and cannot be loaded from the hub "
        "(ConnectionError: \"Couldn't reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled)\")."
    )


def test_a_dataset_that_is_a_script_says_what_to_name_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/rows").mkdir(parents=True)
    Path("owner/rows/rows.py").write_text("raise SystemExit")

    assert sentence_of(Source(dataset="owner/rows:main")) == (
        "s.dataset: 'owner/rows:main' is not a file here and cannot be loaded from the hub "
        "('Dataset scripts are no longer supported, but found rows.py'); "
        "find its rows as parquet or JSON, and name that file."
    )


def test_a_folder_that_is_no_saved_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD)

    assert sentence_of(Source(dataset=str(tmp_path))) == (
        f"s.dataset: '{tmp_path}' is a folder, but not one that Dataset.save_to_disk wrote; name a "
        f"file inside it."
    )


def save_one(folder: Path) -> None:
    hf.Dataset.from_dict({"prompt": ["a"]}).save_to_disk(folder)


def save_two(folder: Path) -> None:
    hf.DatasetDict({"train": hf.Dataset.from_dict({"prompt": ["a"]})}).save_to_disk(folder)


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        (save_two, "s.split: no split 'trian'. Did you mean 'train'? Known: train."),
        (save_one, "s.split: '{path}' has one split only; remove the key."),
    ],
)
def test_an_unknown_split_of_a_saved_folder(
    save: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    save(tmp_path / "saved")

    said = sentence_of(Source(dataset=str(tmp_path / "saved"), split="trian"))

    assert said == sentence.format(path=tmp_path / "saved")


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_saved_folder_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    save_one(tmp_path / "saved")
    cut_in_half(next((tmp_path / "saved").glob("*.arrow")))

    assert sentence_of(Source(dataset=str(tmp_path / "saved"))).startswith(
        f"{tmp_path / 'saved'}: the saved dataset cannot be read (ArrowInvalid: "
    )


def test_a_saved_folder_without_its_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")

    assert sentence_of(Source(dataset=str(tmp_path))).startswith(
        f"{tmp_path}: the saved dataset cannot be read ("
    )


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    hf.Dataset.from_dict({"prompt": ["a"] * 100}).to_parquet(path)
    cut_in_half(path)

    assert sentence_of(Source(dataset=str(path))).startswith(
        f"{path}: the file cannot be read as parquet (ArrowInvalid: "
    )


def test_a_bad_row_of_a_parquet_file_has_its_number(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    hf.Dataset.from_dict({"prompt": ["a", None]}).to_parquet(path)

    assert sentence_of(Source(dataset=str(path))) == (
        f"{path}, row 2, field 'prompt': must be text, got null; correct or remove the row."
    )


def test_a_link_to_nothing_is_a_missing_file(tmp_path: Path) -> None:
    link = tmp_path / "d.jsonl"
    link.symlink_to(tmp_path / "gone.jsonl")

    assert sentence_of(Source(dataset=str(link))) == (
        f"s.dataset: no file or folder at {shown(str(link))}; looked for '{link}', "
        "since paths start where llmrl is started."
    )
