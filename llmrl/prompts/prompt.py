"""A prompt as the engines see it: token ids, and what a verifier needs to judge the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.example import Message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewrite:
    """A place where the policy went on from something else than what was said: a chat template dropped the
    thoughts of earlier turns, an agent shortened its history. A new segment of the response begins there."""

    at: int
    """Index of the segment's first token."""
    context: NDArray[np.int32]
    """[M] ids that stood there for the prompt and all tokens before; nobody trains them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One row of a dataset, rendered and tokenized."""

    id: str
    """``source/row``, the same in every run and process."""
    tokens: NDArray[np.int32]
    """[L] token ids, beginning-of-sequence included where the model has one."""
    text: str
    """What the tokens render; rewards and reports show it."""
    answer: str | None
    """The verifier's business: the gold answer as the dataset has it, or None."""
    source: str
    """Name of the source in the recipe, for metrics by source."""
    demonstration: NDArray[np.int32] | None = None
    """[L] response token ids to imitate, the stop token included; None where the dataset has none."""
    rejected: NDArray[np.int32] | None = None
    """[L] token ids of a response that is worse than the demonstration; None where the dataset has none."""
    demonstrated_turn: NDArray[np.int32] | None = None
    """[L] the policy's turn that each token of the demonstration belongs to, -1 where the other speaker has
    the word; None if all of it is one turn."""
    demonstrated_rewrites: tuple[Rewrite, ...] = ()
    """Where the chat template rewrites the past of the demonstration, in order."""
    messages: tuple[Message, ...] = ()
    """The conversation that ``text`` renders; plain text is one message of the user."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """A prompt and its place in the endless stream of prompts."""

    ordinal: int
    """Position in the stream: a pure function of dataset, seed and epoch. Every seed derives from it."""
    prompt: Prompt
    tries: int = 0
    """How often its responses were given up: the same ones would be late again."""
