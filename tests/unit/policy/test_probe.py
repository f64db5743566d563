"""The probe is the same everywhere, and no longer than engines can read."""

from __future__ import annotations

import numpy as np
import pytest

from llmrl.policy.probe import probe_experience


@pytest.mark.parametrize(("context", "length"), [(1024, 24), (25, 24), (24, 23), (3, 2)])
def test_behind_a_probe_there_is_room_for_the_token_that_vllm_samples(context: int, length: int) -> None:
    group = probe_experience(16, context_tokens=context).group

    assert group.prompt.tokens.size + group.rollouts[0].tokens.size == length


def test_every_process_makes_the_same_probe() -> None:
    one, other = (probe_experience(16, context_tokens=64).group.rollouts[0].tokens for _ in range(2))

    np.testing.assert_array_equal(one, other)
    assert set(one.tolist()) <= set(range(16))
