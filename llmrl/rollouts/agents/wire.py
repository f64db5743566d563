"""The OpenAI wire format: what is read of a call, and what is written back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from pydantic_core import from_json

from llmrl.errors import shown
from llmrl.prompts.example import Message, Role
from llmrl.rollouts.agents.calls import Answer
from llmrl.rollouts.agents.contexts import Context, RefusedCall

ONLY: dict[str, tuple[object, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "echo": (None, False),
    "suffix": (None, ""),
}
"""Keys of a call that would change what is sampled or sent, with the values that change nothing."""

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def message(self) -> Message:
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return Message(role=ROLES[self.role], content=text)


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    """Keys that both APIs have; others are ignored, as the recipe decides how tokens are sampled."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str = "policy"
    max_tokens: PositiveInt | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None


class _ChatBody(_Body):
    messages: list[_Message]
    max_completion_tokens: PositiveInt | None = None


class _TextBody(_Body):
    prompt: str | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, of either API."""

    context: Context
    most: int | None
    """Most tokens of the answer."""
    model: str
    chat: bool
    stream: bool
    with_usage: bool
    """Whether a stream ends with the number of tokens."""
    with_ids: bool
    """Whether token ids are sent back."""


def read_call(text: bytes, *, chat: bool, stops: Sequence[str]) -> Call:
    """Read the call in the body of a request.

    Args:
        stops: strings that end a response in any case, ``rollouts.stop``.
    Raises:
        RefusedCall: the body is no such call, or asks for what the endpoint does not do.
    """
    try:
        raw = cast("object", from_json(text))
    except ValueError as error:
        raise RefusedCall(f"the body is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise RefusedCall(f"the body must be an object, got {shown(raw)}.")
    _check_only(cast("Mapping[str, object]", raw))
    try:
        body = (_ChatBody if chat else _TextBody).model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RefusedCall(f"{where}: {first['msg']}, got {shown(first['input'])}.") from error
    _check_stop(body.stop, stops)
    return _call(body)


def _check_only(body: Mapping[str, object]) -> None:
    for key, allowed in ONLY.items():
        if not any(type(body.get(key)) is type(one) and body.get(key) == one for one in allowed):
            raise RefusedCall(
                f"{key}: expected {json.dumps(allowed[1])} or nothing, got {shown(body.get(key))}; "
                f"the endpoint of a rollout does not do this."
            )


def _check_stop(stop: str | Sequence[str] | None, stops: Sequence[str]) -> None:
    asked = [stop] if isinstance(stop, str) else stop or []
    for one in asked:
        if one not in stops:
            raise RefusedCall(
                f"stop: {shown(one)} does not end responses of this run, those of rollouts.stop do: "
                f"{', '.join(map(shown, stops)) or 'none'}; add it there."
            )


def _call(body: _ChatBody | _TextBody) -> Call:
    context: Context
    most = body.max_tokens
    if isinstance(body, _ChatBody):
        context, most = tuple(one.message() for one in body.messages), body.max_completion_tokens or most
    else:
        ids = body.prompt
        context = ids if isinstance(ids, str) else np.clip(ids, -1, 2**31 - 1).astype(np.int32)
    return Call(
        context=context,
        most=most,
        model=body.model,
        chat=isinstance(body, _ChatBody),
        stream=bool(body.stream),
        with_usage=body.stream_options is not None and body.stream_options.include_usage,
        with_ids=bool(body.return_token_ids),
    )


def whole_reply(call: Call, answer: Answer, *, name: str) -> dict[str, Any]:
    """The answer as one object."""
    kind = "chat.completion" if call.chat else "text_completion"
    text = answer.exchange.turn.text
    said = {"message": {"role": "assistant", "content": text}} if call.chat else {"text": text}
    return {**_head(call, name, kind), "choices": [_choice(call, answer, said)], "usage": _usage(answer)}


def streamed_reply(call: Call, answer: Answer, *, name: str) -> list[str]:
    """The answer as events of a stream: all of it in one, framed as clients expect."""
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    text, head = answer.exchange.turn.text, _head(call, name, kind)
    said = {"delta": {"role": "assistant", "content": text}} if call.chat else {"text": text}
    events: list[dict[str, Any]] = [{**head, "choices": [_choice(call, answer, said)]}]
    if call.with_usage:
        events.append({**head, "choices": [], "usage": _usage(answer)})
    return [*(f"data: {json.dumps(event)}\n\n" for event in events), "data: [DONE]\n\n"]


def error_reply(error: str, *, code: str) -> dict[str, Any]:
    """A refusal in the form that OpenAI's clients read."""
    return {"error": {"message": error, "type": "invalid_request_error", "param": None, "code": code}}


def _head(call: Call, name: str, kind: str) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": call.model}


def _choice(call: Call, answer: Answer, said: Mapping[str, Any]) -> dict[str, Any]:
    ids = {"token_ids": answer.exchange.said.tokens.tolist()} if call.with_ids else {}
    return {"index": 0, **said, "logprobs": None, "finish_reason": answer.exchange.said.stop, **ids}


def _usage(answer: Answer) -> dict[str, int]:
    said = answer.exchange.turn.tokens
    return {"prompt_tokens": answer.read, "completion_tokens": said, "total_tokens": answer.read + said}
