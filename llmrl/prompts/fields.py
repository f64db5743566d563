"""From a dataset's own columns to an example: the field map, and every check of a row's values."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import cast, get_args

from llmrl.errors import DataError, RecipeError, did_you_mean, shown
from llmrl.prompts.example import Message, Role
from llmrl.prompts.files import Record

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "messages", "problem"),
    "answer": ("answer", "solution"),
    "response": ("response", "completion", "demonstration", "chosen"),
    "rejected": ("rejected",),
}
"""Columns that are looked for, in this order, where the recipe names none."""

WHOLE_ROW = "*"
"""Name of a column, for the answer, that stands for all columns, as one JSON object."""

ROLES: tuple[str, ...] = get_args(Role)


def check_fields(fields: Mapping[str, str], *, key: str) -> None:
    """Refuse a field map with an unknown name on its left.

    Raises:
        RecipeError: a name besides prompt, messages, answer, response and rejected, or both of the first two.
    """
    known = [*DEFAULTS, "messages"]
    for name in fields:
        if name not in known:
            raise RecipeError(f"{key}.fields: no field named {shown(name)}.{did_you_mean(name, known)}")
    if {"prompt", "messages"} <= set(fields):
        raise RecipeError(
            f"{key}.fields: prompt and messages are both given, but a row has one prompt; remove one."
        )


def prompt_of(record: Record, fields: Mapping[str, str], *, key: str) -> str | tuple[Message, ...]:
    """The prompt of a row: text, or a conversation that ends with the user's turn.

    Raises:
        DataError: no such column, or a value that cannot be a prompt.
    """
    column = _prompt_column(record, fields, key=key)
    if column is None:
        raise DataError(_no_prompt(record, key))
    place, value = f"{record.place}, field {shown(column)}", record.fields[column]
    if isinstance(value, list):
        others = [name for name in DEFAULTS["prompt"] if name in record.fields and name != column]
        return _conversation(cast("list[object]", value), place, others, key=key)
    return text_of(value, place)


def has_prompt(record: Record, fields: Mapping[str, str], *, key: str) -> bool:
    """Whether a row has a column for the prompt.

    Raises:
        DataError: the column that the recipe names is missing.
    """
    return _prompt_column(record, fields, key=key) is not None


def answer_of(record: Record, fields: Mapping[str, str], *, key: str) -> str | None:
    """The gold answer of a row, a number as its JSON text; None where the row has none.

    With ``fields.answer = "*"`` it is the whole row as the text of a JSON object, as for rows with tests for
    code.

    Raises:
        DataError: the column that the recipe names is missing, the value is neither text nor a number, or
            the row has a value that JSON does not know.
    """
    if fields.get("answer") == WHOLE_ROW:
        return _whole(record)
    column = column_of(record, fields, "answer", key=key)
    value = None if column is None else record.fields[column]
    if value is None:
        return None
    place = f"{record.place}, field {shown(column)}"
    if isinstance(value, str):
        return text_of(value, place)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(
            f"{place}: an answer must be text or a number, got {shown(value)}; write it as text, or name "
            f"another column with {key}.fields.answer."
        )
    if not math.isfinite(value):
        raise DataError(
            f"{place}: an answer must be text or a finite number, got {value}; correct or remove the row."
        )
    return json.dumps(value)


def _whole(record: Record) -> str:
    try:
        return json.dumps(dict(record.fields), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{record.place}: the row is not a JSON object ({error}), which an answer of all columns must "
            f"be; leave the column out, or map one column to the answer."
        ) from error


def response_of(record: Record, fields: Mapping[str, str], *, key: str) -> str | None:
    """The response of a row to imitate; None where the row has none.

    Raises:
        DataError: the column that the recipe names is missing, or the value is neither text nor a list of one
            message from the assistant.
    """
    column = column_of(record, fields, "response", key=key)
    value = None if column is None else record.fields[column]
    if value is None:
        return None
    place = f"{record.place}, field {shown(column)}"
    if isinstance(value, str):
        return text_of(value, place)
    if isinstance(value, list):
        messages = messages_of(cast("list[object]", value), place, last="assistant")
        if [message.role for message in messages] == ["assistant"]:
            return messages[0].content
    raise DataError(
        f"{place}: a response must be text or a list of one message from 'assistant', got "
        f"{shown(record.fields[str(column)])}; "
        f"correct the row, or name another column with {key}.fields.response."
    )


def _prompt_column(record: Record, fields: Mapping[str, str], *, key: str) -> str | None:
    return column_of(record, fields, "messages" if "messages" in fields else "prompt", key=key)


def column_of(record: Record, fields: Mapping[str, str], role: str, *, key: str) -> str | None:
    """The column with ``role``: the one that the recipe names, or the first default that the row has.

    Raises:
        DataError: the column that the recipe names is missing.
    """
    if role not in fields:
        return next((name for name in DEFAULTS[role] if name in record.fields), None)
    column = fields[role]
    if column not in record.fields:
        hint = did_you_mean(column, record.fields)
        raise DataError(
            f"{record.place}: no column named {shown(column)}, which {key}.fields.{role} names.{hint}"
        )
    return column


def _no_prompt(record: Record, key: str) -> str:
    columns, wanted = sorted(record.fields), DEFAULTS["prompt"]
    by_lower = {name.lower(): name for name in columns}
    near = (by_lower[hit] for name in wanted for hit in difflib.get_close_matches(name, by_lower, n=1))
    column = next(near, "...")
    return (
        f"{record.place}: no column for the prompt ({', '.join(wanted)}), "
        f"only {', '.join(columns) or 'none'}. "
        f'Set {key}.fields = {{ prompt = "{column}" }}.'
    )


def text_of(value: object, place: str, *, blank: bool = False) -> str:
    """``value`` if it is text that can be encoded; ``blank`` allows white space only.

    Raises:
        DataError: it is not text, or has a character that no tokenizer can encode.
    """
    if not isinstance(value, str):
        got = "null" if value is None else f"{type(value).__name__} {shown(value)}"
        raise DataError(f"{place}: must be text, got {got}; correct or remove the row.")
    if not blank and not value.strip():
        what = "only white space" if value else "empty"
        raise DataError(f"{place}: must have text in it, but is {what}; correct or remove the row.")
    for at, character in enumerate(value) if not value.isascii() or "\0" in value else ():
        if character == "\0" or "\ud800" <= character <= "\udfff":
            kind = "NUL character" if character == "\0" else f"lone surrogate \\u{ord(character):x}"
            raise DataError(f"{place}: {kind} at character {at}, which no tokenizer can encode; remove it.")
    return value


def messages_of(turns: list[object], place: str, *, last: Role) -> tuple[Message, ...]:
    """The messages of a conversation, which should end with one of ``last``; the caller checks that.

    Raises:
        DataError: there is none, one of them is malformed, or a system message is not the first.
    """
    if not turns:
        raise DataError(f"{place}: the conversation is empty; it must end with a message from '{last}'.")
    messages = tuple(
        _message(turn, f"{place}, message {number}") for number, turn in enumerate(turns, start=1)
    )
    late = [
        number for number, message in enumerate(messages, start=1) if number > 1 and message.role == "system"
    ]
    if late:
        raise DataError(
            f"{place}, message {late[0]}: only the first message may be from 'system'; move or remove it."
        )
    return messages


def _conversation(turns: list[object], place: str, others: Sequence[str], *, key: str) -> tuple[Message, ...]:
    messages = messages_of(turns, place, last="user")
    if messages[-1].role != "user":
        # Many datasets have the whole dialogue beside the question that it answers.
        elsewhere = f'set {key}.fields = {{ prompt = "{others[0]}" }}, or ' if others else ""
        raise DataError(
            f"{place}: the last message must be from 'user', got '{messages[-1].role}'; "
            f"{elsewhere}move the last turn to a column 'response'."
        )
    return messages


def _message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{place}: must be an object with role and content, got {shown(turn)}.")
    parts = cast("dict[str, object]", turn)
    missing = [name for name in ("role", "content") if name not in parts]
    if missing:
        raise DataError(
            f"{place}: has no '{missing[0]}', only {', '.join(sorted(parts)) or 'nothing'}; add it."
        )
    role = parts["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{place}: no role {shown(role)}.{did_you_mean(str(role), ROLES)}")
    content = text_of(parts["content"], f"{place}, content", blank=role == "system")
    return Message(role=cast("Role", role), content=content)
