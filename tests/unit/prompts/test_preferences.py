"""Pairs of a chosen and a rejected response, in every form that datasets have, and as a task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.prompts import collection
from llmrl.prompts.collection import _prompt, collect, fingerprint
from llmrl.prompts.datasets import read_source
from llmrl.prompts.example import Example, Message
from llmrl.prompts.pair_tasks import DigitSumPairs
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Source


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> list[Any]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_source(Source(dataset=str(path), **options), key="s")


def test_columns_of_texts_are_a_pair(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"prompt": "1+1=", "chosen": "2", "rejected": "3", "answer": 2})

    assert (row.prompt, row.response, row.rejected, row.answer) == ("1+1=", "2", "3", "2")


def test_the_recipe_may_name_other_columns(tmp_path: Path) -> None:
    fields = {"prompt": "q", "response": "good", "rejected": "bad"}

    (row,) = read(tmp_path, {"q": "1+1=", "good": "2", "bad": "3"}, fields=fields)

    assert (row.prompt, row.response, row.rejected) == ("1+1=", "2", "3")


def test_dialogues_share_their_beginning_up_to_the_last_common_turn(tmp_path: Path) -> None:
    shared = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 1+1?\n\nAssistant:"

    (row,) = read(tmp_path, {"chosen": f"{shared} two", "rejected": f"{shared} three"})

    assert (row.prompt, row.response, row.rejected) == (shared, " two", " three")


def test_lists_of_messages_share_all_but_the_last(tmp_path: Path) -> None:
    question = [said("system", "be brief"), said("user", "1+1?")]
    row = {"chosen": [*question, said("assistant", "2")], "rejected": [*question, said("assistant", "3")]}

    (example,) = read(tmp_path, row)

    prompt = (Message(role="system", content="be brief"), Message(role="user", content="1+1?"))
    assert (example.prompt, example.response, example.rejected) == (prompt, "2", "3")


def test_lists_of_one_message_leave_the_prompt_to_its_column(tmp_path: Path) -> None:
    row = {"prompt": [said("user", "1+1?")], "chosen": [said("assistant", "2")]}

    (example,) = read(tmp_path, row | {"rejected": [said("assistant", "3")]})

    assert example.prompt == (Message(role="user", content="1+1?"),)
    assert (example.response, example.rejected) == ("2", "3")


def test_a_row_in_which_nothing_is_rejected_is_a_demonstration(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"prompt": "1+1=", "chosen": "2", "rejected": None})

    assert (row.response, row.rejected) == ("2", None)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": "1+1=", "chosen": "2", "rejected": "2"},
            "'chosen' and 'rejected' have the same response '2', so nothing is preferred; remove the row.",
        ),
        (
            {"prompt": "1+1=", "rejected": "2"},
            "'rejected' has a rejected response, but no column has the chosen one; "
            "map one with s.fields.response.",
        ),
        (
            {"chosen": "Yes.", "rejected": "No."},
            "the two dialogues share no beginning up to '\\n\\nAssistant:', so they have no common prompt; "
            "add a column 'prompt', or correct or remove the row.",
        ),
        (
            {"chosen": "\n\nHuman: hi\n\nAssistant:", "rejected": "\n\nHuman: hi\n\nAssistant: ho"},
            "a dialogue ends where its response should begin; remove the row.",
        ),
        (
            {
                "chosen": [said("user", "hi"), said("assistant", "ho")],
                "rejected": [said("user", "hey"), said("assistant", "ho")],
            },
            "the conversations differ before their last message, so they have no common prompt; "
            "correct or remove the row.",
        ),
        (
            {
                "chosen": [said("assistant", "hi"), said("assistant", "ho")],
                "rejected": [said("assistant", "x")],
            },
            "the conversations differ before their last message, so they have no common prompt; "
            "correct or remove the row.",
        ),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, row)

    assert str(refused.value) == f"{tmp_path / 'rows.jsonl'}, line 1: {sentence}"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": "1+1=", "chosen": "2", "rejected": " "},
            "field 'rejected': must have text in it, but is only white space; correct or remove the row.",
        ),
        (
            {"prompt": "1+1=", "chosen": [said("user", "hi")], "rejected": [said("assistant", "ho")]},
            "field 'chosen': the last message must be the response of 'assistant', got 'user'.",
        ),
        (
            {"prompt": "1+1=", "chosen": [], "rejected": [said("assistant", "ho")]},
            "field 'chosen': the conversation is empty; it must end with a message from 'assistant'.",
        ),
    ],
)
def test_a_field_that_is_no_response_is_named(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, row)

    assert str(refused.value) == f"{tmp_path / 'rows.jsonl'}, line 1, {sentence}"


def test_all_rows_of_hh_are_pairs_of_the_same_dialogue(shared: Path) -> None:
    path = shared / "data" / "hh" / "harmless-base-test.jsonl.gz"

    rows = read_source(Source(dataset=str(path)), key="s")

    assert len(rows) == 2312
    assert all(isinstance(row.prompt, str) and row.prompt.endswith("\n\nAssistant:") for row in rows)
    assert all(row.response != row.rejected for row in rows)
    assert sum(not (row.response or "").strip() for row in rows) == 4  # the assistant says nothing


def test_pairs_are_tokenized_and_part_of_the_fingerprint(tmp_path: Path, digits: Tokenizer) -> None:
    path = tmp_path / "rows.jsonl"
    seen = []
    for wrong in ("3", "4"):
        path.write_text(json.dumps({"prompt": "1+1=", "chosen": "2", "rejected": wrong}))
        (found,) = collect([Source(dataset=str(path))], digits, key="s", max_tokens=16, seed=0)
        seen.append((fingerprint(found.prompts), found.prompts[0].rejected))

    assert digits.decode(seen[0][1]) == "3"
    assert seen[0][1].tolist()[-1] == digits.stop_ids[0]
    assert seen[0][0] != seen[1][0]


def test_pairs_with_a_response_that_is_too_long_are_left_out(tmp_path: Path, digits: Tokenizer) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [("2", "3"), ("2", "3333"), ("2222", "3"), ("2", "33")]
    pairs = [{"prompt": "1+1=", "chosen": chosen, "rejected": rejected} for chosen, rejected in rows]
    path.write_text("\n".join(map(json.dumps, pairs)))
    given: Any = {"key": "s", "max_tokens": 16, "seed": 0}
    sources = [Source(dataset=str(path))]

    (found,) = collect(sources, digits, max_response_tokens=3, **given)  # two digits and the end

    assert [prompt.id for prompt in found.prompts] == ["rows/0", "rows/3"]
    assert found.left_out == 2
    with pytest.raises(
        DataError, match=r"s\.0: none of 4 responses has at most 1 tokens, the shortest has 2"
    ):
        collect(sources, digits, max_response_tokens=1, **given)


def test_rows_of_which_a_model_reads_too_much_are_left_out(
    tmp_path: Path, digits: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": "1+1=", "response": said}) for said in ("2", "22", "222"))
    )
    given: Any = {"key": "s", "max_tokens": 16, "seed": 0}
    sources = [Source(dataset=str(path))]

    (found,) = collect(sources, digits, max_read_tokens=8, **given)  # the start, four, two digits, the end
    assert [prompt.id for prompt in found.prompts] == ["rows/0", "rows/1"]

    def rewritten(example: Example, tokenizer: Tokenizer) -> Prompt:
        """The past is rewritten once, so a model reads a second sequence, of ten more tokens."""
        whole = _prompt(example, tokenizer)
        rewrite = Rewrite(at=1, context=np.zeros(10, np.int32))
        return replace(whole, demonstrated_rewrites=(rewrite,))

    monkeypatch.setattr(collection, "_prompt", rewritten)
    with pytest.raises(
        DataError,
        match=r"s\.0: none of 3 rows, with all .*, has at most 16 tokens, the shortest has 17; "
        r"raise policy\.tokens_per_microbatch",
    ):
        collect(sources, digits, max_read_tokens=16, **given)


def test_the_task_pairs_a_right_working_with_one_that_slips_once() -> None:
    made = DigitSumPairs(digits_min=4)

    for problem in (made.make(number) for number in range(200)):
        assert problem.response.endswith(f"#{problem.answer}")
        assert problem.rejected is not None
        assert not problem.rejected.endswith(f"#{problem.answer}")
        steps = problem.rejected.partition("#")[0].split(",")
        wrong = [
            step
            for step in steps
            if sum(map(int, step.partition("=")[0].split("+"))) != int(step.split("=")[1])
        ]
        assert len(wrong) == 1


def test_a_known_share_of_the_labels_is_flipped() -> None:
    made = DigitSumPairs(flipped=0.3)

    problems = [made.make(number) for number in range(3000)]
    swapped = [not problem.response.endswith(f"#{problem.answer}") for problem in problems]

    # The standard deviation of the share is 0.0084.
    assert sum(swapped) / 3000 == pytest.approx(0.3, abs=0.03)
    assert all(
        (problem.rejected or "").endswith(f"#{problem.answer}") == flip
        for problem, flip in zip(problems, swapped, strict=True)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"digits_min": 1}, "digits_min must be at least 2, so that a step can slip, got 1"),
        ({"flipped": 1.5}, "flipped must lie between 0 and 1, got 1.5"),
        ({"digits_min": 5}, "digits_min and digits_max must satisfy"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DigitSumPairs(**options)
