"""Demonstrations become experience without any rollout: the dataset's responses, with credit 1."""

from __future__ import annotations

import numpy as np

from llmrl.errors import DataError
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Draw
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def demonstrate(draw: Draw, *, version: int) -> Experience:
    """The experience of having seen the right response.

    Raises:
        DataError: the prompt's row has no response.
    """
    tokens = draw.prompt.demonstration
    if tokens is None:
        raise DataError(f"{draw.prompt.id}: no response to imitate; map one with prompts.sources.fields.response.")
    rollout = Rollout(
        tokens=tokens,
        logp=np.zeros(tokens.size, dtype=np.float32),
        version=np.full(tokens.size, version, dtype=np.int32),
        trained=np.ones(tokens.size, dtype=np.bool_),
        turn=np.zeros(tokens.size, dtype=np.int32),
        stop="stop",
        text="",
    )
    return Experience(
        group=RolloutGroup(ordinal=draw.ordinal, prompt=draw.prompt, rollouts=(rollout,)),
        judgements=(),
        advantages=(np.ones(tokens.size, dtype=np.float32),),
        lag=0,
    )
