"""What a call to the model says, as token ids: the first one whole, later ones from where the last ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, LlmrlError, shown
from llmrl.prompts.example import Message
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.rollouts.conversation import Exchange

Context = tuple[Message, ...] | str | NDArray[np.int32]
"""Messages of a chat call; text or token ids of a completion call."""


class RefusedCall(LlmrlError, ValueError):
    """A call that the endpoint does not answer; the agent reads why."""

    code = "unsupported"


class NoRoom(RefusedCall):
    """No token is left for the policy."""

    code = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How contexts become ids."""

    tokenizer: Tokenizer
    chat: bool
    """Whether the model has a chat template in use, ``model.chat``."""

    def whole(self, context: Context) -> NDArray[np.int32]:
        """[L] ids of the first call.

        Raises:
            RefusedCall: it is empty, nobody's turn, or of characters without a token.
        """
        try:
            ids = self._whole(context)
        except DataError as error:
            raise RefusedCall(str(error)) from error
        if not ids.size:
            raise RefusedCall("the first call has no tokens; say something to go on from.")
        return ids

    def added(self, before: Context, exchange: Exchange, context: Context) -> tuple[str, NDArray[np.int32]]:
        """What a call says after the policy's last turn: its text, and its [K] ids as the model reads them.

        Args:
            before: what the call before said; ``exchange`` is the turn it was answered with.
        Raises:
            RefusedCall: it does not go on from there.
            ModelError: the chat template does not keep what was said.
        """
        try:
            if isinstance(context, str) and isinstance(before, str):
                return self._added_text(before + exchange.turn.text, context, after=exchange)
            if isinstance(context, tuple) and isinstance(before, tuple):
                return self._added_message(before, exchange, context)
        except DataError as error:
            raise RefusedCall(str(error)) from error
        if isinstance(context, np.ndarray) and isinstance(before, np.ndarray):
            return self._added_ids(np.concatenate([before, exchange.said.tokens]), context)
        raise RefusedCall("messages, text and token ids cannot follow each other in one rollout; use one.")

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
        """One content after the other with nothing between; the assistant's end with the end of sequence."""
        pieces = [self.tokenizer.encode_prompt("")]
        for message in messages:
            if message.role == "assistant":
                pieces.append(self.tokenizer.encode_response(message.content))
            else:
                pieces.append(self._text(message.content))
        return np.concatenate(pieces)

    def _text(self, text: str) -> NDArray[np.int32]:
        return self.tokenizer.encode_reply((), text, after=self.tokenizer.stop_ids[0])

    def _added_message(
        self, before: Sequence[Message], exchange: Exchange, messages: Sequence[Message]
    ) -> tuple[str, NDArray[np.int32]]:
        said = (*before, Message(role="assistant", content=exchange.turn.text))
        for number, (old, new) in enumerate(zip(said, messages, strict=False)):
            if old.role != new.role or old.content.strip() != new.content.strip():
                raise RefusedCall(
                    f"messages: number {number} was {shown(old.content)} of {old.role} and is now "
                    f"{shown(new.content)} of {new.role}; a rollout is only ever added to."
                )
        new = messages[len(said) :]
        if len(messages) < len(said) or [message.role for message in new] != ["user"]:
            raise RefusedCall(
                f"messages: expected the {len(said)} so far, the policy's answer among them, and one new "
                f"message of the user; got {len(messages)}, after those so far: "
                f"{', '.join(message.role for message in new) or 'none'}."
            )
        ids = self.tokenizer.encode_reply(said, new[0].content, after=int(exchange.said.tokens[-1]))
        return new[0].content, ids

    def _added_text(self, so_far: str, text: str, *, after: Exchange) -> tuple[str, NDArray[np.int32]]:
        if not text.startswith(so_far):
            raise RefusedCall(
                f"prompt: expected it to begin with the prompt and the answer before, which end in "
                f"{shown(so_far[-40:])}; a rollout is only ever added to."
            )
        new = text.removeprefix(so_far)
        return new, self.tokenizer.encode_reply((), new, after=int(after.said.tokens[-1]))

    def _added_ids(self, so_far: NDArray[np.int32], ids: NDArray[np.int32]) -> tuple[str, NDArray[np.int32]]:
        if not np.array_equal(ids[: so_far.size], so_far):
            raise RefusedCall(
                f"prompt: expected it to begin with the {so_far.size} token ids of the prompt and the answer "
                f"before, got {ids.size} others; a rollout is only ever added to."
            )
        new = self._known(ids[so_far.size :])
        return self.tokenizer.decode(new), new

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
