"""Demonstrations become groups without any rollout: the dataset's responses, as if they had been sampled."""

from __future__ import annotations

import numpy as np

from llmrl.errors import DataError
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Draw
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def demonstrate(draw: Draw) -> RolloutGroup:
    """A group of one: the response in the dataset.

    Raises:
        DataError: the prompt's row has no response.
    """
    tokens, turn = draw.prompt.demonstration, draw.prompt.demonstrated_turn
    if tokens is None:
        raise DataError(
            f"{draw.prompt.id}: no response to imitate; map one with prompts.sources.fields.response."
        )
    if turn is None:
        turn = np.zeros(tokens.size, dtype=np.int32)
    rollout = Rollout(
        tokens=tokens,
        logp=np.zeros(tokens.size, dtype=np.float32),
        version=np.zeros(tokens.size, dtype=np.int32),
        trained=turn >= 0,
        turn=turn.clip(min=0),
        stop="stop",
        text="",
    )
    return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=(rollout,))


def imitate(group: RolloutGroup) -> Experience:
    """Credit 1 for every token of the policy in a demonstration; it has no age, so its lag is 0."""
    advantages = tuple(r.trained.astype(np.float32) for r in group.rollouts)
    return Experience(group=group, judgements=(), advantages=advantages, lag=0)
