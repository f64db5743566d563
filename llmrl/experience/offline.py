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
    tokens = draw.prompt.demonstration
    if tokens is None:
        raise DataError(
            f"{draw.prompt.id}: no response to imitate; map one with prompts.sources.fields.response."
        )
    rollout = Rollout(
        tokens=tokens,
        logp=np.zeros(tokens.size, dtype=np.float32),
        version=np.zeros(tokens.size, dtype=np.int32),
        trained=np.ones(tokens.size, dtype=np.bool_),
        turn=np.zeros(tokens.size, dtype=np.int32),
        stop="stop",
        text="",
    )
    return RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=(rollout,))


def imitate(group: RolloutGroup) -> Experience:
    """Credit 1 for every token of a demonstration; it has no age, so its lag is 0."""
    advantages = tuple(np.ones(r.tokens.size, dtype=np.float32) for r in group.rollouts)
    return Experience(group=group, judgements=(), advantages=advantages, lag=0)
