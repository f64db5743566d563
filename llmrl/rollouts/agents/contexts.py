"""The context of a call to the model as token ids: whole, or only what follows the last call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, LlmrlError
from llmrl.prompts.example import Message
from llmrl.prompts.tokenizer import Heard, Tokenizer
from llmrl.rollouts.conversations.exchange import Exchange

Context = tuple[Message, ...] | str | NDArray[np.int32]
"""A call's context: messages of a chat call; text or token ids of a completion call."""


class RefusedCall(LlmrlError, ValueError):
    """A call that the endpoint refuses, with the reason for the agent."""

    code = "unsupported"


class NoRoom(RefusedCall):
    """A call that leaves no token for the policy."""

    code = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Turns contexts into token ids."""

    tokenizer: Tokenizer
    chat: bool
    """Whether the model's chat template is used, ``model.chat``."""

    def whole(self, context: Context) -> NDArray[np.int32]:
        """[L] token ids of a call that continues no other.

        Raises:
            RefusedCall: it is empty, not the policy's turn, or has characters without a token.
        """
        try:
            ids = self._whole(context)
        except DataError as error:
            raise RefusedCall(str(error)) from error
        if not ids.size:
            raise RefusedCall("the call has no tokens; say something to go on from.")
        return ids

    def heard(self, before: Context, exchange: Exchange, context: Context) -> tuple[str, Heard]:
        """The text that a call adds after the policy's last turn, and its ids as the model reads them.

        A call that does not go on from there (a shortened history, another conversation) is its own past.

        Args:
            before: context of the previous call; ``exchange`` is the turn that answered it.
        Raises:
            RefusedCall: as :meth:`whole`.
        """
        try:
            added = self._added(before, exchange, context)
        except DataError as error:
            raise RefusedCall(str(error)) from error
        if added is not None:
            return added
        none = np.zeros(0, dtype=np.int32)
        return self._last_words(context), Heard(tokens=none, past=self.whole(context))

    def _whole(self, context: Context) -> NDArray[np.int32]:
        if isinstance(context, np.ndarray):
            return self._known(context)
        if isinstance(context, str):
            self._need_plain()
            return self.tokenizer.encode_prompt(context)
        if not context or context[-1].role == "assistant":
            raise RefusedCall("messages: the last one must be the user's, for the policy speaks next.")
        return self.tokenizer.encode_prompt(context) if self.chat else self._plain(context)

    def _plain(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Join the contents with nothing between; the assistant's end with the end of sequence."""
        pieces = [self.tokenizer.encode_prompt("")]
        for message in messages:
            if message.role == "assistant":
                pieces.append(self.tokenizer.encode_response(message.content))
            else:
                pieces.append(self._text(message.content))
        return np.concatenate(pieces)

    def _text(self, text: str) -> NDArray[np.int32]:
        return self.tokenizer.encode_reply((), text, after=self.tokenizer.stop_ids[0]).tokens

    def _added(self, before: Context, exchange: Exchange, context: Context) -> tuple[str, Heard] | None:
        """The new part of a call; None if it does not go on from the last one."""
        match before, context:
            case str(), str():
                return self._added_text(before + exchange.turn.text, context, after=exchange)
            case tuple(), tuple():
                return self._added_message(before, exchange, context)
            case np.ndarray(), np.ndarray():
                return self._added_ids(np.concatenate([before, exchange.said.tokens]), context)
            case _:
                return None

    def _added_message(
        self, before: Sequence[Message], exchange: Exchange, messages: Sequence[Message]
    ) -> tuple[str, Heard] | None:
        said = (*before, Message(role="assistant", content=exchange.turn.text))
        if len(messages) != len(said) + 1 or messages[-1].role != "user":
            return None
        if any(_spoken(old) != _spoken(new) for old, new in zip(said, messages, strict=False)):
            return None
        new = messages[-1].content
        return new, self.tokenizer.encode_reply(said, new, after=int(exchange.said.tokens[-1]))

    def _added_text(self, so_far: str, text: str, *, after: Exchange) -> tuple[str, Heard] | None:
        if not text.startswith(so_far):
            return None
        new = text.removeprefix(so_far)
        return new, self.tokenizer.encode_reply((), new, after=int(after.said.tokens[-1]))

    def _added_ids(self, so_far: NDArray[np.int32], ids: NDArray[np.int32]) -> tuple[str, Heard] | None:
        if not np.array_equal(ids[: so_far.size], so_far):
            return None
        new = self._known(ids[so_far.size :])
        return self.tokenizer.decode(new), Heard(tokens=new)

    def _last_words(self, context: Context) -> str:
        """The visible new part of a call that continues no other."""
        if isinstance(context, tuple):
            return context[-1].content if context else ""
        return context if isinstance(context, str) else self.tokenizer.decode(context)

    def _known(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        wrong = ids[(ids < 0) | (ids >= self.tokenizer.vocabulary)]
        if wrong.size:
            raise RefusedCall(
                f"prompt: the tokenizer has no id {wrong[0]}; it has 0 to {self.tokenizer.vocabulary - 1}."
            )
        return ids

    def _need_plain(self) -> None:
        if self.chat:
            raise RefusedCall("prompt: with model.chat = true call chat/completions, or send token ids.")


def _spoken(message: Message) -> tuple[str, str]:
    """Role and content of a message as a client may send it back: many trim it."""
    return message.role, message.content.strip()
