"""A prompt as the engines see it: token ids, and what a verifier needs to judge the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.example import Message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewrite:
    """A place where the policy continued from other tokens than those so far: a chat template dropped the
    thoughts of earlier turns, an agent shortened its history. A new segment of the response begins there."""

    at: int
    """Index of the segment's first token."""
    context: NDArray[np.int32]
    """[M] ids that replaced the prompt and all tokens before; not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One row of a dataset, rendered and tokenized."""

    id: str
    """Identifier ``source/row``, the same in every run and process."""
    tokens: NDArray[np.int32]
    """[L] token ids, beginning-of-sequence included where the model has one."""
    text: str
    """Text that the tokens render; rewards and reports show it."""
    answer: str | None
    """Gold answer as the dataset has it, for the verifier; or None."""
    source: str
    """Name of the source in the recipe, for metrics by source."""
    demonstration: NDArray[np.int32] | None = None
    """[L] response token ids to imitate, the stop token included; None where the dataset has none."""
    rejected: NDArray[np.int32] | None = None
    """[L] token ids of a response worse than the demonstration; None where the dataset has none."""
    demonstrated_turn: NDArray[np.int32] | None = None
    """[L] index of the policy's turn for each token of the demonstration, -1 in a reply of the other speaker;
    None if all of it is one turn."""
    demonstrated_rewrites: tuple[Rewrite, ...] = ()
    """Places where the chat template rewrites the past of the demonstration, in order."""
    messages: tuple[Message, ...] = ()
    """Conversation that ``text`` renders; plain text is one message of the user."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """A prompt and its place in the endless stream of prompts."""

    ordinal: int
    """Position in the stream: a pure function of dataset, seed and epoch. Every seed derives from it."""
    prompt: Prompt
    tries: int = 0
    """Number of times that its responses were given up; it changes the seeds, or they would be late again."""
