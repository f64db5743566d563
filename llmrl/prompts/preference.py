"""Preferences: a prompt with a chosen and a rejected response, in each of the forms that datasets have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import commonprefix
from typing import cast

from llmrl.errors import DataError, shown
from llmrl.prompts.example import Message
from llmrl.prompts.fields import column_of, has_prompt, messages_of, prompt_of, text_of
from llmrl.prompts.files import Record

ASSISTANT = "\n\nAssistant:"
"""Beginning of an assistant's turn in dialogues of one text, such as those of Anthropic's HH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two responses to one prompt."""

    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str


def preference_of(record: Record, fields: Mapping[str, str], *, key: str) -> Preference | None:
    """The pair in a row; None if it has no rejected response.

    Both responses are texts next to a prompt; or lists of messages, the last of which is the response and
    the others the prompt unless it has a column of its own; or whole dialogues that share their beginning
    up to an ``Assistant:``.

    Raises:
        DataError: no chosen response, no common prompt, equal responses, or one without any text.
    """
    rejected = column_of(record, fields, "rejected", key=key)
    if rejected is None or record.fields[rejected] is None:
        return None
    chosen = column_of(record, fields, "response", key=key)
    if chosen is None:
        raise DataError(
            f"{record.place}: {shown(rejected)} has a rejected response, but no column has the chosen one; "
            f"map one with {key}.fields.response."
        )
    pair = _pair(record, fields, (chosen, rejected), key=key)
    if pair.chosen == pair.rejected:
        raise DataError(
            f"{record.place}: {shown(chosen)} and {shown(rejected)} have the same response "
            f"{shown(pair.chosen)}, so nothing is preferred; remove the row."
        )
    return pair


def _pair(record: Record, fields: Mapping[str, str], columns: tuple[str, str], *, key: str) -> Preference:
    values = [record.fields[column] for column in columns]
    places = [f"{record.place}, field {shown(column)}" for column in columns]
    if all(isinstance(value, list) for value in values):
        chosen, rejected = (_turns(*both) for both in zip(values, places, strict=True))
        prompt = _shared(chosen, rejected, record.place) or prompt_of(record, fields, key=key)
        return Preference(prompt=prompt, chosen=chosen[-1].content, rejected=rejected[-1].content)
    texts = [text_of(value, place) for value, place in zip(values, places, strict=True)]
    if has_prompt(record, fields, key=key):
        return Preference(prompt=prompt_of(record, fields, key=key), chosen=texts[0], rejected=texts[1])
    return _of_dialogues(texts[0], texts[1], record.place)


def _turns(value: object, place: str) -> tuple[Message, ...]:
    """A conversation that ends with the response."""
    messages = messages_of(cast("list[object]", value), place, last="assistant")
    if messages[-1].role != "assistant":
        raise DataError(
            f"{place}: the last message must be the response of 'assistant', got '{messages[-1].role}'."
        )
    return messages


def _shared(chosen: tuple[Message, ...], rejected: tuple[Message, ...], place: str) -> tuple[Message, ...]:
    prompt = chosen[:-1]
    if prompt != rejected[:-1]:
        raise DataError(
            f"{place}: the conversations differ before their last message, so they have no common prompt; "
            "correct or remove the row."
        )
    if prompt and prompt[-1].role != "user":
        raise DataError(f"{place}: the message before the response must be from 'user'; correct the row.")
    return prompt


def _of_dialogues(chosen: str, rejected: str, place: str) -> Preference:
    end = commonprefix([chosen, rejected]).rfind(ASSISTANT) + len(ASSISTANT)
    if end < len(ASSISTANT):
        raise DataError(
            f"{place}: the two dialogues share no beginning up to {shown(ASSISTANT)}, so they have no common "
            "prompt; add a column 'prompt', or correct or remove the row."
        )
    # A blank response stays one: the assistant of HH sometimes says nothing.
    if end in (len(chosen), len(rejected)):
        raise DataError(f"{place}: a dialogue ends where its response should begin; remove the row.")
    return Preference(prompt=chosen[:end], chosen=chosen[end:], rejected=rejected[end:])
