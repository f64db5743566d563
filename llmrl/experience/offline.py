"""Groups of offline data, made without any rollout: the dataset's responses, as if they had been sampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def demonstrate(draw: Draw) -> RolloutGroup:
    """Make a group of one: the response in the dataset.

    Raises:
        DataError: the prompt's row has no response.
    """
    tokens = draw.prompt.demonstration
    if tokens is None:
        raise DataError(
            f"{draw.prompt.id}: no response to imitate; map one with prompts.sources.fields.response."
        )
    rollout = _demonstrated(draw.prompt, tokens)
    return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=(rollout,))


def contrast(draw: Draw) -> RolloutGroup:
    """Make a group of two: the chosen response in the dataset, then the rejected one.

    Raises:
        DataError: the prompt's row has no such pair.
    """
    chosen, rejected = draw.prompt.demonstration, draw.prompt.rejected
    if chosen is None or rejected is None:
        missing = "response" if chosen is None else "rejected"
        raise DataError(
            f"{draw.prompt.id}: no pair of a chosen and a rejected response; "
            f"map the column of the missing one with prompts.sources.fields.{missing}."
        )
    rollouts = (_demonstrated(draw.prompt, chosen), _recorded(rejected, None))
    return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=rollouts)


def imitate(group: RolloutGroup) -> Experience:
    """Give credit 1 to every token of the policy in a demonstration; of two, the first is preferred.

    Recorded responses have no age, so the lag is 0.
    """
    advantages = tuple(r.trained.astype(np.float32) for r in group.rollouts)
    pairs = ((0, 1),) if len(group.rollouts) == 2 else ()
    return Experience(group=group, judgements=(), advantages=advantages, lag=0, pairs=pairs)


def _demonstrated(prompt: Prompt, tokens: NDArray[np.int32]) -> Rollout:
    return replace(_recorded(tokens, prompt.demonstrated_turn), rewrites=prompt.demonstrated_rewrites)


def _recorded(tokens: NDArray[np.int32], turn: NDArray[np.int32] | None) -> Rollout:
    turns = np.zeros(tokens.size, dtype=np.int32) if turn is None else turn
    return Rollout(
        tokens=tokens,
        logp=np.zeros(tokens.size, dtype=np.float32),
        version=np.zeros(tokens.size, dtype=np.int32),
        trained=turns >= 0,
        turn=turns.clip(min=0),
        stop="stop",
        text="",
    )
