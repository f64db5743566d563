"""A group of rollouts: how old it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def test_a_group_in_which_nobody_said_a_word_has_no_age() -> None:
    none = np.zeros(0, dtype=np.int32)
    silent = Rollout(
        tokens=none, logp=none.astype(np.float32), version=none, trained=none > 0, turn=none, stop="abort",
        text="", abort="the engine gave up",
    )  # fmt: skip
    prompt = Prompt(id="p", tokens=none, text="", answer=None, source="p")
    ids = np.array([4, 3], dtype=np.int32)
    spoken = replace(silent, tokens=ids, version=ids)

    assert RolloutGroup(ordinal=0, prompt=prompt, rollouts=(silent, silent)).oldest_version is None
    assert RolloutGroup(ordinal=0, prompt=prompt, rollouts=(silent, spoken)).oldest_version == 3
