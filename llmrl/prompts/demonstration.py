"""A demonstrated conversation as token ids, with those that the policy is to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.example import Message, Role
from llmrl.prompts.prompt import Rewrite
from llmrl.prompts.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstration:
    """The tokens that follow the prompt. Both arrays have the same length L."""

    tokens: NDArray[np.int32]
    """[L] ids; every turn of the policy ends with the first of the tokenizer's ``stop_ids``."""
    turn: NDArray[np.int32] | None
    """[L] index of the policy's turn that a token belongs to, -1 in a reply; None for a single turn."""
    rewrites: tuple[Rewrite, ...]
    """Places where the chat template rewrites the past, in order."""


def encode_demonstration(
    tokenizer: Tokenizer, prompt: str | Sequence[Message], turns: Sequence[str]
) -> Demonstration:
    """The ids that an engine and an environment would have made of the same text.

    Args:
        turns: a response, the reply to it, the response to that, and so on; the last one is a response.
    Raises:
        DataError: the template refuses the conversation, or a character has no token.
    """
    said, pieces = list(tokenizer.conversation(prompt)), list[NDArray[np.int32]]()
    rewrites = list[Rewrite]()
    for place, text in enumerate(turns):
        role: Role = "user" if place % 2 else "assistant"
        if place % 2:
            heard = tokenizer.encode_reply(said, text, after=int(pieces[-1][-1]))
            if heard.past is not None:
                rewrites.append(Rewrite(at=sum(piece.size for piece in pieces), context=heard.past))
            pieces.append(heard.tokens)
        else:
            pieces.append(tokenizer.encode_response(text))
        said.append(Message(role=role, content=text))
    owners = [-1 if place % 2 else place // 2 for place in range(len(pieces))]
    turn = np.repeat(np.array(owners, dtype=np.int32), [piece.size for piece in pieces])
    return Demonstration(
        tokens=np.concatenate(pieces),
        turn=turn if len(pieces) > 1 else None,
        rewrites=tuple(rewrites),
    )
