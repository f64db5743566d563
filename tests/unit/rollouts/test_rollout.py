"""A group of rollouts: how old it is, and how it travels."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.rollouts.rollout import COLUMNS, Rollout, RolloutGroup

PROMPT = Prompt(id="p", tokens=np.array([7], np.int32), text="", answer=None, source="p")


def rollout(*versions: int, **others: object) -> Rollout:
    size = len(versions)
    made = Rollout(
        tokens=np.arange(5, 5 + size, dtype=np.int32),
        logp=np.linspace(-1, 0, size, dtype=np.float32),
        version=np.array(versions, dtype=np.int32),
        trained=np.arange(size) % 2 == 0,
        turn=np.arange(size, dtype=np.int32),
        stop="stop",
        text="said",
    )
    return replace(made, **others)


def test_a_group_in_which_nobody_said_a_word_has_no_age() -> None:
    silent = rollout(stop="abort", abort="the engine gave up")

    assert RolloutGroup(ordinal=0, prompt=PROMPT, rollouts=(silent, silent)).oldest_version is None
    assert RolloutGroup(ordinal=0, prompt=PROMPT, rollouts=(silent, rollout(4, 3))).oldest_version == 3


def test_a_group_travels_as_five_buffers_and_arrives_as_it_was() -> None:
    rewrite = Rewrite(at=1, context=np.array([9, 9], np.int32))
    sent = (
        rollout(1, 1, 2, last_turn="id", outcome=0.5, rewrites=(rewrite,)),
        rollout(stop="abort", abort="the engine gave up"),
        rollout(2, opponent=True, stop="length"),
    )
    buffers: list[pickle.PickleBuffer] = []

    packed = pickle.dumps(
        RolloutGroup(ordinal=3, prompt=PROMPT, rollouts=sent), protocol=5, buffer_callback=buffers.append
    )
    group = pickle.loads(packed, buffers=buffers)

    assert len(buffers) == len(COLUMNS) + 2  # ids of the prompt and of what was rewritten
    assert (group.ordinal, group.prompt.id, len(group.rollouts)) == (3, "p", 3)
    for one, other in zip(group.rollouts, sent, strict=True):
        for name in COLUMNS:
            assert getattr(one, name).dtype == getattr(other, name).dtype
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
        alike = [field.name for field in fields(Rollout) if field.name not in (*COLUMNS, "rewrites")]
        assert [getattr(one, name) for name in alike] == [getattr(other, name) for name in alike]
    assert [one.context.tolist() for one in group.rollouts[0].rewrites] == [[9, 9]]
    assert pickle.loads(pickle.dumps(RolloutGroup(ordinal=4, prompt=PROMPT, rollouts=()))).rollouts == ()


def test_a_rollout_whose_arrays_are_of_unequal_length_is_refused() -> None:
    with pytest.raises(EngineError, match=r"tokens, logp, .* have lengths \[2, 3\], not one"):
        rollout(1, 1, 1, turn=np.zeros(2, np.int32))
    with pytest.raises(EngineError, match=r"have lengths \[1, 2\], not one"):
        rollout(1, 1, logp=np.zeros(1, np.float32))
